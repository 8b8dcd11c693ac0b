//! A source that was promoted since the target followed it last: whether the target can go on with it, and from where.
//!
//! It is noted on the target before anything else is done by its position: before a slot is chosen, or anything is
//! confirmed, by a position that means nothing on the new timeline; before a table is copied, so that whatever was
//! copied before is known to be of the old one; and before a change is applied, so that the old primary, should it come
//! back, is known to be old.

use tracing::info;

use super::TargetTask;
use crate::apply::progress::{self, Stored};
use crate::launcher::error::LaunchError;
use crate::launcher::gap;
use crate::lsn::DurableLsn;
use crate::postgres::wire::Purpose;
use crate::postgres::{Client, WireConnection};
use crate::source::identity;
use crate::tablesync;

impl TargetTask {
    /// Has the target, which is found to stand like this, follow the timeline that the source is on.
    pub(super) async fn cross_over(
        &self,
        target: &Client,
        found: (Stored, Option<DurableLsn>),
    ) -> Result<(Stored, Option<DurableLsn>), LaunchError> {
        let (setup, facts, stored) = (&self.shared.setup, &self.shared.facts, &found.0);
        let is_source = stored.system_identifier == facts.system_identifier && stored.database == facts.database;
        let Some(end) = stored.end_lsn.filter(|_| is_source && stored.timeline < facts.timeline) else {
            return Ok(found);
        };
        let name = setup.application_name();
        let mut conn = WireConnection::connect(&setup.source, &name, Purpose::Replication).await?;
        if facts.is_same(&identity::identify(&mut conn).await?).is_err() {
            // Yet another one: whoever reads the stream finds that out, and all is begun anew.
            return Ok(found);
        }
        let switches = identity::timeline_history(&mut conn, facts.timeline).await?;
        let switches: Vec<_> = switches.into_iter().map(|switch| (switch.timeline, switch.switch)).collect();
        let tables = tablesync::state::load(target, &setup.stream).await?;
        let to = gap::cross(stored, end, &tables, facts.timeline, &switches)?;
        progress::cross(target, &facts.stream(setup), end, to).await?;
        info!(
            target = self.target().name,
            before = stored.timeline,
            now = facts.timeline,
            from = %to,
            "the source was promoted, and has all that the target has: goes on with its timeline"
        );
        self.read(target).await
    }
}
