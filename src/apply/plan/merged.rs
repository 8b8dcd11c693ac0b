//! A row's values after several changes: those of the newest, and where it has none because a TOASTed value did not
//! change, those of the newest before it that has one.

use crate::row::{Datum, Row};

/// See the module.
#[derive(Clone, Debug)]
pub struct Merged<'a> {
    newest: &'a Row,
    /// Rows before it that have values which all later ones lack, the newest last.
    before: Vec<&'a Row>,
}

impl<'a> Merged<'a> {
    /// One row as it is.
    pub fn new(row: &'a Row) -> Self {
        Self { newest: row, before: Vec::new() }
    }

    /// `newest` after `before`.
    pub fn over(newest: &'a Row, before: Merged<'a>) -> Self {
        if is_whole(newest) {
            return Self::new(newest);
        }
        let Merged { newest: previous, mut before } = before;
        let adds = newest.iter().zip(previous.iter()).any(|(new, old)| new == Datum::Unchanged && old != new);
        if adds {
            before.push(previous);
        }
        Self { newest, before }
    }

    /// The value of column `index`; [`Datum::Unchanged`] when none of the rows has it.
    pub fn get(&self, index: usize) -> Option<Datum<'a>> {
        let newest = self.newest.get(index)?;
        if newest != Datum::Unchanged {
            return Some(newest);
        }
        let known = |row: &&'a Row| row.get(index).filter(|datum| *datum != Datum::Unchanged);
        Some(self.before.iter().rev().find_map(known).unwrap_or(Datum::Unchanged))
    }

    /// All values in order.
    pub fn values(&self) -> impl Iterator<Item = Datum<'a>> {
        (0..self.newest.len()).filter_map(|at| self.get(at))
    }

    /// The newest row, which has every value of a key.
    pub fn newest(&self) -> &'a Row {
        self.newest
    }

    /// The columns that no row has a value of.
    pub fn unset(&self) -> Vec<u16> {
        if is_whole(self.newest) {
            return Vec::new();
        }
        (0..self.newest.len()).filter(|&at| self.get(at) == Some(Datum::Unchanged)).map(|at| at as u16).collect()
    }
}

fn is_whole(row: &Row) -> bool {
    row.iter().all(|datum| datum != Datum::Unchanged)
}
