//! What operators want of a target while the daemon runs. The target itself remembers that it is paused
//! ([`crate::apply::progress`]), so that a restart, or another daemon, holds still as well: a wish lives only until
//! that is written there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::relation::TableName;
use crate::telemetry::control::TableAction;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Apply nothing to it, and leave it alone, until told to go on.
    Pause,
    /// Go on.
    Resume,
    /// Copy all its tables again.
    Resync,
}

/// The targets' wishes, by name; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wishes(Arc<Mutex<HashMap<String, Wanted>>>);

impl Wishes {
    /// This is wanted of a target from now on.
    pub fn want(&self, target: &str, wish: Wish) {
        self.of(target).target.send_replace(Some(wish));
    }

    /// This is wanted of a table of a target from now on.
    pub fn want_of_table(&self, target: &str, table: &TableName, action: TableAction) {
        self.of(target).tables.send_modify(|tables| _ = tables.insert(table.clone(), action));
    }

    /// What is wanted of a target, as it changes.
    pub fn of(&self, target: &str) -> Wanted {
        let mut wishes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.entry(target.to_owned()).or_default().clone()
    }

    /// Of other targets nothing is wanted any more.
    pub fn keep(&self, targets: &[String]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| targets.contains(name));
    }

    /// Another daemon is the active one, and was perhaps told otherwise.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(|wanted| {
            wanted.target.send_replace(None);
            wanted.tables.send_replace(BTreeMap::new());
        });
    }
}

/// What is wanted of one target and of its tables and not written there yet; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    target: watch::Sender<Option<Wish>>,
    tables: watch::Sender<BTreeMap<TableName, TableAction>>,
}

impl Wanted {
    /// Whether this is wanted.
    pub fn is(&self, wish: Wish) -> bool {
        *self.target.borrow() == Some(wish)
    }

    /// Waits until this is wanted.
    pub async fn until(&self, wish: Wish) {
        // The sender is in `self`: the channel cannot close.
        let _ = self.target.subscribe().wait_for(|wanted| *wanted == Some(wish)).await;
    }

    /// Waits until something is wanted of a table.
    pub async fn until_of_tables(&self) {
        let _ = self.tables.subscribe().wait_for(|wanted| !wanted.is_empty()).await;
    }

    /// Sees every wish for a table from now on.
    pub fn news_of_tables(&self) -> watch::Receiver<BTreeMap<TableName, TableAction>> {
        self.tables.subscribe()
    }

    /// What is wanted of tables.
    pub fn of_tables(&self) -> BTreeMap<TableName, TableAction> {
        self.tables.borrow().clone()
    }

    /// This is written on the target; unless something else is wanted of the table by now.
    pub fn noted_of_table(&self, table: &TableName, action: TableAction) {
        self.tables.send_if_modified(|wanted| {
            if wanted.get(table) == Some(&action) {
                wanted.remove(table);
            }
            false
        });
    }

    /// Sees every wish from now on.
    pub fn news(&self) -> watch::Receiver<Option<Wish>> {
        self.target.subscribe()
    }

    /// It is written on the target; unless something else is wanted by now. This is no news.
    pub fn noted(&self, wish: Wish) {
        self.target.send_if_modified(|wanted| {
            wanted.take_if(|wanted| *wanted == wish);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wish_holds_until_it_is_noted_or_another_comes() {
        let wishes = Wishes::default();
        let wanted = wishes.of("staging");
        assert!(!wanted.is(Wish::Pause) && !wanted.is(Wish::Resume));
        wishes.want("staging", Wish::Pause);
        wanted.until(Wish::Pause).await;
        assert!(!wishes.of("analytics").is(Wish::Pause));
        wishes.want("staging", Wish::Resume);
        wanted.noted(Wish::Pause);
        assert!(wanted.is(Wish::Resume), "what was noted is not wanted any more");
        wanted.noted(Wish::Resume);
        let mut news = wanted.news();
        assert!(!wanted.is(Wish::Resume) && !news.has_changed().unwrap());
        wishes.want("staging", Wish::Resume);
        news.changed().await.unwrap();
    }

    #[tokio::test]
    async fn the_last_wish_for_a_table_holds() {
        let wishes = Wishes::default();
        let (wanted, table) = (wishes.of("staging"), TableName::new("public", "orders"));
        wishes.want_of_table("staging", &table, TableAction::Pause);
        wishes.want_of_table("staging", &table, TableAction::Resume);
        wanted.until_of_tables().await;
        wanted.noted_of_table(&table, TableAction::Pause);
        assert_eq!(wanted.of_tables(), [(table.clone(), TableAction::Resume)].into());
        wanted.noted_of_table(&table, TableAction::Resume);
        assert!(wanted.of_tables().is_empty());
        wishes.want_of_table("staging", &table, TableAction::Resync);
        wishes.forget();
        assert!(wanted.of_tables().is_empty());
    }

    #[test]
    fn a_target_that_is_gone_or_followed_elsewhere_has_no_wishes() {
        let wishes = Wishes::default();
        wishes.want("staging", Wish::Pause);
        wishes.want("analytics", Wish::Pause);
        wishes.keep(&["analytics".to_owned()]);
        assert!(!wishes.of("staging").is(Wish::Pause) && wishes.of("analytics").is(Wish::Pause));
        let wanted = wishes.of("analytics");
        wishes.forget();
        assert!(!wanted.is(Wish::Pause));
    }
}
