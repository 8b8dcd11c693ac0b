//! Net effect per key.
//!
//! An entry is one row's way through the batch: what it was on the target before (`origin`), what it is after
//! (`last`), and where it is now. Keys are compared by their bytes: equal bytes are equal values, as the source sends
//! each value in one form. Values that are equal and differ in their bytes (a number as 1.0 and 1.00) make two entries,
//! as DELETE and INSERT would.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Merged, Unplannable};
use crate::row::{Datum, OldRow, Row};

/// One table's rows.
pub(super) struct Keyed<'a> {
    key: Arc<[usize]>,
    entries: Vec<Entry<'a>>,
    /// Places of entries, each by the key that its row has now, or had when it went.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// One row's way.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// A row with the key under which the entry is found.
    pub at: &'a Row,
    /// The row as the target has it: its key, or all of it. `None`: the target has none.
    pub origin: Option<&'a Row>,
    /// The row after the batch; `None`: it is gone.
    pub last: Option<Merged<'a>>,
    /// Whether it was deleted and inserted anew.
    pub replaced: bool,
    /// Whether another row has come to have its key.
    pub displaced: bool,
}

impl<'a> Keyed<'a> {
    /// Rows told apart by these columns.
    pub fn new(key: Arc<[usize]>) -> Self {
        Self { key, entries: Vec::new(), index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    /// The key's columns, and every row's way.
    pub fn into_entries(self) -> (Arc<[usize]>, Vec<Entry<'a>>) {
        (self.key, self.entries)
    }

    pub fn insert(&mut self, new: &'a Row) -> Result<(), Unplannable> {
        let hash = hash(&self.hasher, &self.key, new);
        match self.find(hash, new) {
            None => self.add(hash, Entry { at: new, origin: None, last: Some(Merged::new(new)), ..Entry::of(new) }),
            Some(place) => {
                let entry = &mut self.entries[place];
                if entry.last.is_some() {
                    return Err(Unplannable::Contradiction);
                }
                entry.replaced |= entry.origin.is_some();
                (entry.at, entry.last) = (new, Some(Merged::new(new)));
            }
        }
        Ok(())
    }

    pub fn update(&mut self, old: Option<&'a OldRow>, new: &'a Row) -> Result<(), Unplannable> {
        let was = old.map_or(new, OldRow::row);
        let stays = old.is_none() || same(&self.key, was, new);
        let found = hash(&self.hasher, &self.key, was);
        let place = match self.find(found, was) {
            Some(place) => {
                let entry = &mut self.entries[place];
                let before = entry.last.take().filter(|last| is_it(last, old)).ok_or(Unplannable::Contradiction)?;
                entry.last = Some(Merged::over(new, before));
                place
            }
            None => {
                let last = match old {
                    Some(OldRow::Full(old)) => Merged::over(new, Merged::new(old)),
                    Some(OldRow::Key(_)) | None => Merged::new(new),
                };
                self.add(found, Entry { origin: Some(was), last: Some(last), ..Entry::of(was) });
                self.entries.len() - 1
            }
        };
        if stays { Ok(()) } else { self.move_to(place, found, new) }
    }

    pub fn delete(&mut self, old: &'a OldRow) -> Result<(), Unplannable> {
        let was = old.row();
        let hash = hash(&self.hasher, &self.key, was);
        match self.find(hash, was) {
            None => self.add(hash, Entry { origin: Some(was), ..Entry::of(was) }),
            Some(place) => {
                let last = self.entries[place].last.take();
                last.filter(|last| is_it(last, Some(old))).ok_or(Unplannable::Contradiction)?;
            }
        }
        Ok(())
    }

    /// The entry's row gets the key of `new`.
    fn move_to(&mut self, place: usize, from: u64, new: &'a Row) -> Result<(), Unplannable> {
        if let Ok(left) = self.index.find_entry(from, |at| *at as usize == place) {
            left.remove();
        }
        self.entries[place].at = new;
        let hash = hash(&self.hasher, &self.key, new);
        if let Some(other) = self.find(hash, new) {
            if self.entries[other].last.is_some() {
                return Err(Unplannable::Contradiction);
            }
            self.entries[other].displaced = true;
            if let Ok(taken) = self.index.find_entry(hash, |at| *at as usize == other) {
                taken.remove();
            }
        }
        self.enter(hash, place);
        Ok(())
    }

    fn find(&self, hash: u64, row: &Row) -> Option<usize> {
        let found = self.index.find(hash, |at| same(&self.key, self.entries[*at as usize].at, row));
        found.map(|at| *at as usize)
    }

    fn add(&mut self, hash: u64, entry: Entry<'a>) {
        self.entries.push(entry);
        self.enter(hash, self.entries.len() - 1);
    }

    fn enter(&mut self, hash: u64, place: usize) {
        let (entries, hasher, key) = (&self.entries, &self.hasher, &self.key);
        let again = |at: &u32| self::hash(hasher, key, entries[*at as usize].at);
        self.index.insert_unique(hash, place as u32, again);
    }
}

impl<'a> Entry<'a> {
    fn of(at: &'a Row) -> Self {
        Self { at, origin: None, last: None, replaced: false, displaced: false }
    }
}

/// Whether a row as it came to be is the one that is changed now. With a constraint that is deferred on the source
/// there may be two of one key for a while, which only whole rows tell apart; without one the key tells.
fn is_it(last: &Merged<'_>, old: Option<&OldRow>) -> bool {
    match old {
        Some(OldRow::Full(old)) => last.values().eq(old.iter()),
        Some(OldRow::Key(_)) | None => true,
    }
}

/// The bytes of a value, for telling it from others; a key has no NULLs.
pub(super) fn bytes<'a>(datum: Option<Datum<'a>>) -> &'a [u8] {
    match datum {
        Some(Datum::Text(bytes) | Datum::Binary(bytes)) => bytes,
        Some(Datum::Null | Datum::Unchanged) | None => &[],
    }
}

/// Whether two rows are equal in these columns.
pub(super) fn same(columns: &[usize], one: &Row, other: &Row) -> bool {
    columns.iter().all(|at| one.get(*at) == other.get(*at))
}

fn hash(hasher: &DefaultHashBuilder, columns: &[usize], row: &Row) -> u64 {
    let mut state = hasher.build_hasher();
    columns.iter().for_each(|at| bytes(row.get(*at)).hash(&mut state));
    state.finish()
}
