//! What operators want of a target while the daemon runs. The target itself remembers that it is paused
//! ([`crate::apply::progress`]), so that a restart, or another daemon, holds still as well: a wish lives only until
//! that is written there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Apply nothing to it, and leave it alone, until told to go on.
    Pause,
    /// Go on.
    Resume,
}

/// The targets' wishes, by name; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wishes(Arc<Mutex<HashMap<String, Wanted>>>);

impl Wishes {
    /// This is wanted of a target from now on.
    pub fn want(&self, target: &str, wish: Wish) {
        self.of(target).0.send_replace(Some(wish));
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
            wanted.0.send_replace(None);
        });
    }
}

/// What is wanted of one target and not written there yet; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Wanted(watch::Sender<Option<Wish>>);

impl Wanted {
    /// Whether this is wanted.
    pub fn is(&self, wish: Wish) -> bool {
        *self.0.borrow() == Some(wish)
    }

    /// Waits until this is wanted.
    pub async fn until(&self, wish: Wish) {
        // The sender is in `self`: the channel cannot close.
        let _ = self.0.subscribe().wait_for(|wanted| *wanted == Some(wish)).await;
    }

    /// Sees every wish from now on.
    pub fn news(&self) -> watch::Receiver<Option<Wish>> {
        self.0.subscribe()
    }

    /// It is written on the target; unless something else is wanted by now. This is no news.
    pub fn noted(&self, wish: Wish) {
        self.0.send_if_modified(|wanted| {
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
