//! Attaching: positions are checked, what is not copied is copied, and the target is ready to be fed.
//!
//! In: a target as it is now. Out: an open session, the position from which to feed it and the commit by which it
//! recognises its source, and from where on each table's changes apply; or why it must not be fed.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::join;
use tracing::info;

use super::{Attached, CopiedTable, Found, Refused, TargetTask};
use crate::apply::progress::{self, Stored};
use crate::apply::session::Session;
use crate::launcher::copy;
use crate::launcher::error::LaunchError;
use crate::launcher::follow;
use crate::launcher::gap::{self, SourceFacts};
use crate::launcher::wish::Wish;
use crate::lsn::DurableLsn;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::relation::TableName;
use crate::source::SourceError;
use crate::source::identity;
use crate::source::publication::{self, Publication, PublishedTable};
use crate::source::slot::{self, Snapshot};
use crate::tablesync::{self, CopyError, CopyScope, CopyState};
use crate::telemetry::state::{TableState, TargetState};

/// What a target does not have yet.
struct Missing {
    /// The tables.
    scope: CopyScope,
    /// Whether it has others, that it can be fed meanwhile.
    others: bool,
}

impl TargetTask {
    /// Makes the target ready to be fed, unless it is paused.
    pub(super) async fn attach(&mut self) -> Result<Found, LaunchError> {
        let (options, name) = (self.shared.session_options(self.target()), self.shared.setup.application_name());
        let (session, source) = join!(Session::open(&options), Client::connect(&self.shared.setup.source, &name));
        let (mut session, source) = (session?, source?);
        let stream = self.shared.facts.stream(&self.shared.setup);
        self.shared.places.check(self.target(), &session.client, &source).await?;
        progress::migrate(&session.client).await?;
        progress::register(&session.client, &stream).await?;
        let publication = &self.shared.setup.config.source.publication;
        progress::follow_through(&session.client, &stream.name, publication).await?;
        if self.wanted.is(Wish::Resume) {
            progress::resume(&session.client, &stream.name).await?;
            self.wanted.noted(Wish::Resume);
        }
        // Where it stands, and what its tables hold, is so until it is fed: no session of before writes any more.
        let claimed = progress::claim(&session.client, &stream.name).await?;
        let (epoch, stored, durable) = claimed.ok_or_else(|| progress::ProgressError::Taken(stream.name.clone()))?;
        let mut found = (stored, durable);
        if self.begins_again() && found.0.paused_at.is_none() {
            self.begin_again(&session.client).await?;
            found = self.read(&session.client).await?;
        }
        let (mut stored, durable) = self.cross_over(&session.client, found).await?;
        self.choose_lane(&source, &stored, durable).await?;
        if let Some(since) = stored.paused_at.take() {
            return Ok(Found::Paused(Some(since)));
        }
        let (checked, publication) = join!(
            self.check(&session.client, &source, &stored),
            publication::read(&source, &self.shared.setup.config.source.publication),
        );
        checked?;
        let publication = self.published(publication?)?;
        if let Some(end) = stored.end_lsn {
            self.take_over(&session.client, end).await?;
        }
        self.do_as_wanted(&session.client).await?;
        let stored = self.copy(&session, &source, stored, &publication).await?;
        let copied = self.tables(&session.client).await?;
        let left_out = self.left_out();
        let is_shown = |table: &TableName| copied.contains_key(table) || left_out.contains(table);
        self.shared.board.keep_tables(self.target().id, is_shown);
        session.remember(copied.keys()).await?;
        let end = stored.end_lsn.ok_or_else(|| progress::ProgressError::Taken(stream.name.clone()))?;
        Ok(Found::Ready(Box::new(Attached { session, epoch, stored: end, last: stored.last, copied })))
    }

    /// The publication as it is now; everybody is told when it is another than was known.
    fn published(&mut self, now: Option<Publication>) -> Result<Arc<Publication>, LaunchError> {
        let now = now.ok_or_else(|| publication::missing(&self.shared.setup.config.source.publication))?;
        let now = Arc::new(now);
        self.shared.tell_published(&now);
        self.attached_to = Arc::clone(&now);
        Ok(now)
    }

    /// Where the target stands now. What it shows may be of a daemon that was just killed, and not on its disk yet; what
    /// is confirmed must be.
    pub(super) async fn read(&self, client: &Client) -> Result<(Stored, Option<DurableLsn>), LaunchError> {
        let stream = &self.shared.setup.stream;
        let found = progress::read_durable(client, stream).await?;
        Ok(found.ok_or_else(|| progress::ProgressError::Taken(stream.clone()))?)
    }

    /// Whether what the target has and what the slot gives fit together. Asks the source anew each time.
    async fn check(&self, target: &Client, source: &Client, stored: &Stored) -> Result<(), LaunchError> {
        let setup = &self.shared.setup;
        let name = setup.application_name();
        let mut conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
        let identity = identity::identify(&mut conn).await?;
        let switches = match identity.timeline > stored.timeline {
            true => identity::timeline_history(&mut conn, identity.timeline).await?,
            false => Vec::new(),
        };
        let Some(slot) = slot::inspect(source, self.slot()).await? else {
            let (slot, target) = (self.slot().to_owned(), self.target().name.clone());
            return Err(match stored.end_lsn {
                Some(stored) if identity::in_recovery(source).await? => LaunchError::Standby { slot, target, stored },
                Some(stored) => LaunchError::SlotLost { slot, target, stored },
                None => SourceError::SlotMissing { slot }.into(),
            });
        };
        slot.check_usable(&identity.database)?;
        let facts = SourceFacts {
            system_identifier: identity.system_identifier,
            timeline: identity.timeline,
            switches: switches.into_iter().map(|switch| (switch.timeline, switch.switch)).collect(),
            flushed: identity.flush_lsn,
            database: identity.database,
            slot: setup.stream.clone(),
            confirmed: slot.confirmed_flush,
        };
        match stored.end_lsn {
            Some(end) => {
                gap::check(stored, end, &facts)?;
                let session = self.shared.board.lane(self.target().id).session();
                let same =
                    |refused: &&Refused| refused.stored == end && session.is_some() && refused.session == session;
                if let Some(refused) = self.refused.as_ref().filter(same) {
                    return Err(refused.gap.clone().into());
                }
            }
            None => gap::check_new(&tablesync::state::load(target, &setup.stream).await?, &facts)?,
        }
        Ok(())
    }

    /// Copies what is published for this target and not copied yet, or has it brought in where there is something that
    /// the target can be fed meanwhile; gives a new target its first position.
    async fn copy(
        &mut self,
        session: &Session,
        source: &Client,
        stored: Stored,
        publication: &Arc<Publication>,
    ) -> Result<Stored, LaunchError> {
        let id = self.target().id;
        let mut publication = Arc::clone(publication);
        loop {
            let Missing { scope, others } = self.missing(session, &publication).await?;
            if stored.end_lsn.is_some() && (others || scope.tables.is_empty()) {
                self.bring_in(&session.client, &scope.tables).await?;
                return Ok(stored);
            }
            self.keep_lanes(&session.client, |_| false).await?;
            self.shared.board.target_state(id, TargetState::Copying);
            let findings = copy::obstacles(&session.client, &scope).await?;
            if !findings.is_empty() {
                return Err(CopyError::Findings { target: self.target().name.clone(), findings }.into());
            }
            let (snapshot, now) = self.snapshot(source, &publication, &scope.tables).await?;
            if let Some(snapshot) = snapshot {
                self.copy_as_of(session, &stored, scope, &publication.name, &snapshot).await?;
                let (stored, durable) = self.read(&session.client).await?;
                if let Some(durable) = durable {
                    self.shared.board.stands_at(id, durable, stored.last);
                }
                return Ok(stored);
            }
            publication = now;
        }
    }

    /// What is to be copied of what is published.
    async fn missing(&mut self, session: &Session, publication: &Publication) -> Result<Missing, LaunchError> {
        let setup = Arc::clone(&self.shared.setup);
        let wanted = setup.wanted(self.target(), publication);
        self.uncopied.retain(|table| wanted.iter().all(|wanted| wanted.name != *table));
        let (stream, target) = (&setup.stream, &self.target().name);
        for table in &self.uncopied {
            info!(target, table = %table, "not in the publication any more: its changes are left out");
        }
        follow::review(&session.client, stream, target, publication, &wanted).await?;
        let tables = tablesync::pending(&session.client, stream, &wanted, session.replica_role).await?;
        let others = tables.len() < wanted.len();
        Ok(Missing { scope: copy::scope(&setup, self.target(), publication, tables, session.replica_role), others })
    }

    async fn copy_as_of(
        &self,
        session: &Session,
        stored: &Stored,
        scope: CopyScope,
        publication: &str,
        snapshot: &Snapshot,
    ) -> Result<(), LaunchError> {
        let (shared, id) = (&self.shared, self.target().id);
        let setup = &shared.setup;
        if stored.end_lsn.is_none() {
            let durable = progress::position(&session.client, &shared.facts.stream(setup), snapshot.lsn).await?;
            shared.board.stands_at(id, durable, None);
        }
        for table in &scope.tables {
            shared.board.table(id, &table.name, TableState::Pending, Some(0), None);
        }
        info!(target = self.target().name, tables = scope.tables.len(), snapshot = %snapshot.lsn, "copying");
        let job = copy::job(setup, self.target(), scope, publication, snapshot, CopyState::Done);
        let observer = Arc::clone(&self.observer) as Arc<dyn tablesync::CopyObserver>;
        tablesync::copy(job, observer, &shared.stop).await?;
        Ok(())
    }

    /// The snapshot of the slot's making for the first copy, else one of its own, from a slot that goes with it; and
    /// what is published by then. The snapshot is none when these tables are not the same then as before it was taken
    /// (which can take as long as transactions run on the source): what came to them meanwhile would be neither in
    /// the copy nor, having committed before the snapshot, in what is applied after it.
    async fn snapshot(
        &mut self,
        client: &Client,
        publication: &Arc<Publication>,
        tables: &[PublishedTable],
    ) -> Result<(Option<Arc<Snapshot>>, Arc<Publication>), LaunchError> {
        let shared = Arc::clone(&self.shared);
        let setup = &shared.setup;
        let (snapshot, before, now) = match self.snapshot.take() {
            // The target was attached, and `publication` read, after it was taken.
            Some((snapshot, before)) => (snapshot, before, Arc::clone(publication)),
            None => {
                let snapshot = copy::snapshot(setup, client).await?;
                let now = publication::read(client, &setup.config.source.publication).await?;
                (Arc::new(snapshot), Arc::clone(publication), self.published(now)?)
            }
        };
        let changed = [&before, &now].into_iter().find_map(|other| publication.changed_in(other, tables));
        if let Some(table) = changed {
            copy::told_of_change(&self.target().name, &table.name);
            return Ok((None, now));
        }
        // What else has changed is for later: the copy goes by what was read before.
        self.attached_to = Arc::clone(publication);
        Ok((Some(snapshot), now))
    }

    /// The tables that are copied; and those that are stopped are noted.
    async fn tables(&mut self, client: &Client) -> Result<HashMap<TableName, CopiedTable>, LaunchError> {
        let id = self.target().id;
        let states = tablesync::state::load(client, &self.shared.setup.stream).await?;
        let (board, stopped) = (&self.shared.board, states.iter().filter(|table| table.state.is_stopped()));
        self.stopped = stopped
            .map(|table| {
                let state = match table.state {
                    CopyState::Quarantined => TableState::Quarantined,
                    _ => TableState::Paused,
                };
                board.table(id, &table.name, state, Some(table.rows), None);
                board.table_error(id, &table.name, table.error.clone());
                table.name.clone()
            })
            .collect();
        let done = states.into_iter().filter(|table| table.state == CopyState::Done);
        Ok(done
            .map(|table| {
                let (rows, lsn) = (Some(table.rows), Some(table.copy_lsn));
                self.shared.board.table(id, &table.name, TableState::Ready, rows, lsn);
                let of = table.origin.as_deref().and_then(publication::relation_of);
                (table.name, CopiedTable { from: table.copy_lsn, of })
            })
            .collect())
    }
}
