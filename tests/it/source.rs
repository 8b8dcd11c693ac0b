//! The source on real servers: what a publication publishes by version, slots and their snapshots, the stream's life.

mod backlog;
mod publication;
mod slot;
mod stream;

use walferry::postgres::wire::Purpose;
use walferry::postgres::{Client, ConnectOptions, WireConnection};
use walferry::source::SourceError;
use walferry::source::identity::{self, TimelineSwitch};
use walferry::source::lock::StreamLock;

use super::support::prelude::*;

fn options(url: &str) -> ConnectOptions {
    ConnectOptions::parse(url).unwrap()
}

async fn client(url: &str) -> Client {
    Client::connect(&options(url), "test").await.unwrap()
}

async fn replication(url: &str) -> WireConnection {
    WireConnection::connect(&options(url), "test", Purpose::Replication).await.unwrap()
}

#[tokio::test]
async fn a_promoted_standby_keeps_the_identity_and_says_where_its_timeline_began() {
    for_each_major(async |major| {
        let mut primary = Cluster::start(major).await;
        let standby = primary.standby().await;
        let before = identity::identify(&mut replication(&primary.url("postgres")).await).await.unwrap();
        assert_eq!((before.timeline, before.database.as_str(), before.server_version / 10_000), (1, "postgres", major));
        assert_eq!(identity::timeline_history(&mut replication(&primary.url("postgres")).await, 1).await.unwrap(), []);
        standby.promote().await;
        let mut conn = replication(&standby.url("postgres")).await;
        // IDENTIFY_SYSTEM may name the old timeline until the startup process is done.
        let after = identity::identify(&mut conn).await.unwrap();
        assert_eq!(after.system_identifier, before.system_identifier);
        let history = identity::timeline_history(&mut conn, 2).await.unwrap();
        let [TimelineSwitch { timeline: 1, switch }] = history[..] else { panic!("{history:?}") };
        assert!(switch <= after.flush_lsn, "{switch} {}", after.flush_lsn);
    })
    .await;
}

#[tokio::test]
async fn one_session_holds_a_streams_lock_until_it_ends() {
    let cluster = Cluster::start(default_major()).await;
    let url = cluster.url("postgres");
    let (one, two) = (client(&url).await, client(&url).await);
    let lock = StreamLock::try_acquire(&one, "main").await.unwrap().unwrap();
    assert!(StreamLock::try_acquire(&two, "main").await.unwrap().is_none());
    assert!(StreamLock::try_acquire(&two, "other").await.unwrap().is_some());
    let pid = one.query_one(&walferry::sql::Sql::new("SELECT pg_backend_pid()"), &[]).await.unwrap().get::<_, i32>(0);
    assert_eq!(StreamLock::holder(&two, "main").await.unwrap(), Some(pid));
    lock.release(&one).await.unwrap();
    let lock = StreamLock::try_acquire(&two, "main").await.unwrap().unwrap();
    drop(two);
    wait_for("the lock of a session that ended", seconds(10), async || {
        StreamLock::try_acquire(&one, "main").await.unwrap()
    })
    .await
    .release(&one)
    .await
    .unwrap();
    let released = lock.release(&one).await;
    assert!(matches!(released, Err(SourceError::Answer(_))), "a lock that is not held was released: {released:?}");
}
