//! Net effect where rows are told apart by all of their values, and several may be equal: which of them is changed
//! makes no difference.

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Merged;
use super::keyed::bytes;
use crate::row::{Datum, Row};

/// One table's rows.
#[derive(Default)]
pub(super) struct Whole<'a> {
    entries: Vec<Entry<'a>>,
    /// Places of entries whose row is there, by its values.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// One row's way: what it was on the target (`None`: nothing), and what it is after the batch (`None`: gone).
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub origin: Option<&'a Row>,
    pub last: Option<Merged<'a>>,
}

impl<'a> Whole<'a> {
    /// Every row's way.
    pub fn into_entries(self) -> Vec<Entry<'a>> {
        self.entries
    }

    pub fn insert(&mut self, new: &'a Row) {
        self.enter(Entry { origin: None, last: Some(Merged::new(new)) });
    }

    pub fn update(&mut self, old: &'a Row, new: &'a Row) {
        let last = Merged::over(new, Merged::new(old));
        match self.take(old) {
            Some(place) => {
                self.entries[place].last = Some(last);
                self.index_at(place);
            }
            None => self.enter(Entry { origin: Some(old), last: Some(last) }),
        }
    }

    pub fn delete(&mut self, old: &'a Row) {
        match self.take(old) {
            Some(place) => self.entries[place].last = None,
            None => self.entries.push(Entry { origin: Some(old), last: None }),
        }
    }

    /// Takes an entry whose row has these values out of the index.
    fn take(&mut self, old: &Row) -> Option<usize> {
        let hash = hash(&self.hasher, old.iter());
        let is_it = |at: &u32| match &self.entries[*at as usize].last {
            Some(last) => (0..old.len()).all(|at| old.get(at) == last.get(at)),
            None => false,
        };
        let found = self.index.find_entry(hash, is_it).ok()?;
        Some(found.remove().0 as usize)
    }

    fn enter(&mut self, entry: Entry<'a>) {
        self.entries.push(entry);
        self.index_at(self.entries.len() - 1);
    }

    fn index_at(&mut self, place: usize) {
        let (entries, hasher) = (&self.entries, &self.hasher);
        let hash_of = |at: &u32| entries[*at as usize].last.as_ref().map_or(0, |last| hash(hasher, last.values()));
        self.index.insert_unique(hash_of(&(place as u32)), place as u32, hash_of);
    }
}

fn hash<'a>(hasher: &DefaultHashBuilder, values: impl Iterator<Item = Datum<'a>>) -> u64 {
    let mut state = hasher.build_hasher();
    for value in values {
        (value == Datum::Null).hash(&mut state);
        bytes(Some(value)).hash(&mut state);
    }
    state.finish()
}
