//! Rows as they travel: the bytes of one message, and where each column lies in them.
//!
//! A column costs an offset and a length, not an allocation; a row costs one. The bytes are shared with the frame they
//! arrived in.

use bytes::{Bytes, BytesMut};

/// Bytes asked for in one read from the source. Rows share the memory of what one read brought, and keep all of it
/// alive; a frame longer than this has memory of its own.
pub const READ: usize = 256 * 1024;

/// A row from this size on is not copied: it is a good part of the memory it shares.
const LARGE: usize = READ / 2;

/// One column's value, borrowed from its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the UPDATE did not touch and the source did not send. It is not NULL.
    Unchanged,
    /// The type's output function's text, in the source session's pinned settings.
    Text(&'a [u8]),
    /// The type's send function's bytes.
    Binary(&'a [u8]),
}

/// Where and what one column's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// See [`Datum::Null`].
    Null,
    /// See [`Datum::Unchanged`].
    Unchanged,
    /// Text at `offset` of the row's bytes, `length` bytes long.
    Text { offset: u32, length: u32 },
    /// Binary at `offset` of the row's bytes, `length` bytes long.
    Binary { offset: u32, length: u32 },
}

/// A row's values, one per column of its relation, in the relation's order.
#[derive(Clone, Debug)]
pub struct Row {
    bytes: Bytes,
    cells: Box<[Cell]>,
}

impl Row {
    /// A row over `bytes`; `None` when a cell reaches outside of them.
    pub fn new(bytes: Bytes, cells: Box<[Cell]>) -> Option<Self> {
        let inside = |cell: &Cell| match *cell {
            Cell::Null | Cell::Unchanged => true,
            Cell::Text { offset, length } | Cell::Binary { offset, length } => {
                offset as usize + length as usize <= bytes.len()
            }
        };
        cells.iter().all(inside).then_some(Self { bytes, cells })
    }

    /// How many columns the row has.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it has none: a table may have no columns.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The value of column `index`; `None` past the last.
    pub fn get(&self, index: usize) -> Option<Datum<'_>> {
        self.cells.get(index).map(|cell| self.datum(*cell))
    }

    /// All values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Datum<'_>> {
        self.cells.iter().map(|cell| self.datum(*cell))
    }

    /// The bytes of column `index`, sharing the row's memory; `None` for NULL, unchanged, or past the last.
    pub fn share(&self, index: usize) -> Option<Bytes> {
        match *self.cells.get(index)? {
            Cell::Text { offset, length } | Cell::Binary { offset, length } => {
                Some(self.bytes.slice(offset as usize..offset as usize + length as usize))
            }
            Cell::Null | Cell::Unchanged => None,
        }
    }

    /// Memory this row takes, in bytes: its share of the frame and its cells. What lies beside it in the memory it
    /// shares is not counted, see [`Self::copy_into`].
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.cells.len() * size_of::<Cell>() + size_of::<Self>()
    }

    /// How many bytes [`Self::copy_into`] needs.
    pub fn copied(&self) -> usize {
        if self.bytes.len() < LARGE { self.bytes.len() } else { 0 }
    }

    /// Moves the row's bytes out of the memory they arrived in, which it then keeps alive no longer, to the end of
    /// `memory`. A large row stays where it is.
    pub fn copy_into(&mut self, memory: &mut BytesMut) {
        if self.bytes.len() < LARGE {
            memory.extend_from_slice(&self.bytes);
            self.bytes = memory.split().freeze();
        }
    }

    fn datum(&self, cell: Cell) -> Datum<'_> {
        let at = |offset: u32, length: u32| &self.bytes[offset as usize..offset as usize + length as usize];
        match cell {
            Cell::Null => Datum::Null,
            Cell::Unchanged => Datum::Unchanged,
            Cell::Text { offset, length } => Datum::Text(at(offset, length)),
            Cell::Binary { offset, length } => Datum::Binary(at(offset, length)),
        }
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Row {}

/// What UPDATE and DELETE say about the row as it was. It has every column of the relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldRow {
    /// The replica identity's columns; all others are NULL and mean nothing.
    Key(Row),
    /// REPLICA IDENTITY FULL: the whole row.
    Full(Row),
}

impl OldRow {
    /// The values, whatever they cover.
    pub fn row(&self) -> &Row {
        match self {
            OldRow::Key(row) | OldRow::Full(row) => row,
        }
    }

    /// As [`Self::row`].
    pub fn row_mut(&mut self) -> &mut Row {
        match self {
            OldRow::Key(row) | OldRow::Full(row) => row,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_outside_the_bytes_is_refused() {
        let cells = |offset, length| vec![Cell::Text { offset, length }].into_boxed_slice();
        assert!(Row::new(Bytes::from_static(b"abc"), cells(1, 2)).is_some());
        assert!(Row::new(Bytes::from_static(b"abc"), cells(1, 3)).is_none());
        assert!(Row::new(Bytes::from_static(b"abc"), cells(u32::MAX, u32::MAX)).is_none());
    }

    #[test]
    fn a_copied_row_is_the_same_and_lets_go_of_what_it_came_with() {
        let read = Bytes::from(vec![b'x'; 1000]);
        let mut row = Row::new(read.slice(10..15), vec![Cell::Text { offset: 1, length: 3 }].into()).unwrap();
        let before = row.clone();
        let mut memory = BytesMut::with_capacity(row.copied());
        row.copy_into(&mut memory);
        assert_eq!((row.copied(), &row), (5, &before));
        drop(before);
        assert!(read.is_unique());
    }

    #[test]
    fn equality_is_by_value_not_by_place() {
        let row = |bytes: &'static [u8], offset| {
            Row::new(Bytes::from_static(bytes), vec![Cell::Null, Cell::Text { offset, length: 1 }].into()).unwrap()
        };
        assert_eq!(row(b"ab", 1), row(b"b", 0));
        assert_ne!(row(b"ab", 1), row(b"ab", 0));
    }
}
