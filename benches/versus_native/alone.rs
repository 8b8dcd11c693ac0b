//! The source alone: how long it takes to send a backlog to somebody who only reads.
//!
//! No way of applying can be faster than that: a walsender decodes and sends in one process. The reader is walferry's
//! own, with a thread of its own as in the daemon; what it reads is thrown away.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::watch;
use walferry::lsn::{ConfirmedFlush, Lsn};
use walferry::postgres::conninfo::{ConnectOptions, Environment};
use walferry::postgres::wire::Purpose;
use walferry::postgres::{WireConnection, binary};
use walferry::source::wal_receiver::{Received, StartOptions, WalReceiver};
use walferry::sql::Sql;

use crate::bed::{Bed, SOURCE};
use crate::database::{APPLICATION, Database};
use crate::process::cpu_seconds;
use crate::replica::native::PUBLICATION;

const SLOT: &str = "alone";

/// A slot that stands before a backlog.
pub struct Alone {
    /// Whether walferry would ask for values in binary.
    binary: bool,
}

/// What sending it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sent {
    /// From the connection's beginning on.
    pub seconds: f64,
    /// Seconds of processor time of the walsender.
    pub walsender_cpu: Option<f64>,
}

impl Alone {
    /// What is committed from now on will be sent.
    pub async fn stand(source: &Database) -> Result<Self> {
        source.run(&format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")).await?;
        let ask = "SELECT DISTINCT a.atttypid FROM pg_attribute a JOIN pg_publication_tables p \
                   ON a.attrelid = format('%I.%I', p.schemaname, p.tablename)::regclass \
                   WHERE p.pubname = $1 AND a.attnum > 0 AND NOT a.attisdropped";
        let types: Vec<u32> = source.column(ask, &[&PUBLICATION]).await?;
        Ok(Self { binary: types.into_iter().all(|oid| binary::array_of(oid).is_some()) })
    }

    /// Reads until something is sent that was written behind `until`; then the slot is gone.
    pub async fn read(self, bed: &Bed, source: &Database, until: Lsn) -> Result<Sent> {
        let url = bed.url(&bed.source, SOURCE);
        let options = StartOptions { binary: self.binary, ..StartOptions::new(SLOT, PUBLICATION) };
        let reader = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(read(&url, &options, until))
        });
        let sent = reader.await?.context("reading what the source sends");
        source.run(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await?;
        sent
    }
}

async fn read(url: &str, options: &StartOptions, until: Lsn) -> Result<Sent> {
    let connect = ConnectOptions::resolve(url, &Environment::bare("postgres"))?;
    let begun = Instant::now();
    let mut connection = WireConnection::connect(&connect, APPLICATION, Purpose::Replication).await?;
    let rows = connection.query(&Sql::new("SELECT pg_backend_pid()")).await?;
    let pid = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
    // Nothing is confirmed: the slot is dropped.
    let (_unconfirmed, confirmed) = watch::channel(None::<ConfirmedFlush>);
    let mut receiver = WalReceiver::start(connection, options, confirmed).await?;
    while !matches!(receiver.next().await?, Received::Data { start, .. } if start > until) {}
    let sent = Sent { seconds: begun.elapsed().as_secs_f64(), walsender_cpu: pid.and_then(cpu_seconds) };
    receiver.stop().await?;
    Ok(sent)
}
