//! The order in which hosts are tried: as given, but for those that let a whole `connect_timeout` pass without an
//! answer. They come last for a while: with a machine gone that stands first, each of the connections that follow on
//! each other in a failover would wait for it again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::postgres::conninfo::Host;

/// How long a host that did not answer comes last.
const AVOIDED: Duration = Duration::from_secs(30);

/// Hosts that did not answer, and when that was.
#[derive(Debug, Default)]
struct Silent(BTreeMap<String, Instant>);

impl Silent {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn noted(&mut self, host: &Host, silent: bool, now: Instant) {
        self.0.retain(|_, since| now.saturating_duration_since(*since) < AVOIDED);
        match silent {
            true => _ = self.0.insert(host.to_string(), now),
            false => _ = self.0.remove(&host.to_string()),
        }
    }

    fn sort(&self, hosts: &mut [&Host], now: Instant) {
        let is_silent = |since: &Instant| now.saturating_duration_since(*since) < AVOIDED;
        hosts.sort_by_cached_key(|host| self.0.get(&host.to_string()).is_some_and(is_silent));
    }
}

/// What all connections of this process have seen.
static SEEN: Mutex<Silent> = Mutex::new(Silent::new());

/// Puts hosts that did not answer last.
pub(super) fn sort(hosts: &mut [&Host]) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).sort(hosts, Instant::now());
}

/// Notes whether a host has let the whole time pass.
pub(super) fn noted(host: &Host, silent: bool) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).noted(host, silent, Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::ConnectOptions;

    #[test]
    fn a_host_that_did_not_answer_comes_last_for_a_while() {
        let hosts = ConnectOptions::parse("host=a,b,c user=u dbname=d").unwrap().hosts;
        let (mut silent, begun) = (Silent::new(), Instant::now());
        let order = |silent: &Silent, after: u64| {
            let mut order: Vec<&Host> = hosts.iter().collect();
            silent.sort(&mut order, begun + Duration::from_secs(after));
            order.iter().map(|host| host.to_string()[..1].to_owned()).collect::<String>()
        };
        assert_eq!(order(&silent, 0), "abc");
        silent.noted(&hosts[0], true, begun);
        assert_eq!(order(&silent, 1), "bca");
        assert_eq!(order(&silent, 31), "abc");
        silent.noted(&hosts[1], true, begun);
        assert_eq!(order(&silent, 1), "cab");
        silent.noted(&hosts[0], false, begun);
        assert_eq!(order(&silent, 1), "acb");
    }
}
