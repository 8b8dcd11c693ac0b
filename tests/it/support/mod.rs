//! The test harness: servers, a daemon, a proxy between them, workloads, and the comparison that decides.
//!
//! Everything is real: each test starts PostgreSQL itself, and whatever a test started ends with it, also when the test
//! is killed. Nothing waits for time to pass: every wait is for a condition, with a deadline.

// A harness offers more than each test takes.
#![allow(dead_code, unused_imports)]

pub mod browser;
pub mod cluster;
pub mod cluster_builder;
pub mod daemon;
pub mod daemon_builder;
pub mod diff;
pub mod disk;
pub mod followed;
pub mod guard;
pub mod modes;
pub mod paced;
pub mod pair;
pub mod process;
pub mod proxy;
pub mod stage;
pub mod standby;
pub mod tap;
pub mod tpcb;
pub mod versions;
pub mod wait;
pub mod workload;

/// What nearly every test needs.
pub mod prelude {
    pub use super::cluster::{Cluster, Db};
    pub use super::daemon::Daemon;
    pub use super::diff::{assert_equal, wait_equal};
    pub use super::followed::Followed;
    pub(crate) use super::modes::in_each_mode;
    pub use super::modes::{Books, Bulk};
    pub use super::proxy::{Mode, Proxy};
    pub use super::stage::{Load, Stage};
    pub use super::standby::Kept;
    pub use super::tap::{Harm, Moment, Seen, Tap};
    pub use super::versions::{default_major, for_each_major, majors};
    pub use super::wait::{Deadline, seconds, wait_for, within};
}
