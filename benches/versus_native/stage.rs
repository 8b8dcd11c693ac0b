//! A workload's databases: the source with its rows, and for each way target databases that hold the same.

use anyhow::Result;

use crate::bed::Bed;
use crate::both::Way;
use crate::database::Database;
use crate::marker::{self, Watch};
use crate::options::Options;
use crate::replica::Replica;

/// What is to be there.
pub struct Play<'a> {
    /// Tables and procedures, in all databases.
    pub sql: &'a str,
    /// Puts rows into the source.
    pub fill: &'a str,
    /// How many target databases each way has.
    pub targets: usize,
    /// What walferry's sessions on the target are to be set to.
    pub session: &'a str,
}

/// A way, connected once and switched off.
pub struct Side {
    pub replica: Replica,
    pub watch: Watch,
}

/// The source and both ways.
pub struct Stage {
    pub source: Database,
    pub sides: [Side; 2],
    /// The last marker.
    pub marker: i32,
}

impl Stage {
    /// Makes everything, copies the rows, and switches replication off.
    pub async fn set(bed: &Bed, play: &Play<'_>, options: &Options) -> Result<Self> {
        let source = bed.renew_source().await?;
        source.run("SET synchronous_commit = off").await?;
        for statement in [play.sql, marker::SCHEMA, play.fill, "VACUUM ANALYZE"] {
            source.run(statement).await?;
        }
        let mut stage = Self {
            sides: [
                Side::set(Way::Native, bed, play, options).await?,
                Side::set(Way::Walferry, bed, play, options).await?,
            ],
            source,
            marker: 0,
        };
        for way in Way::BOTH {
            let marker = stage.mark().await?;
            let side = stage.side(way);
            let begun = side.replica.start_copy(bed).await?;
            side.replica.copied().await?;
            side.watch.wait(&mut side.replica, marker, marker, begun).await?;
            side.replica.switch_off(bed).await?;
        }
        Ok(stage)
    }

    pub fn side(&mut self, way: Way) -> &mut Side {
        &mut self.sides[way as usize]
    }

    /// Commits the next marker on the source.
    pub async fn mark(&mut self) -> Result<i32> {
        self.marker += 1;
        marker::set(&self.source, self.marker).await?;
        Ok(self.marker)
    }

    /// What autovacuum would do in its own time.
    async fn vacuum(&self, bed: &Bed) -> Result<()> {
        self.source.run("VACUUM ANALYZE").await?;
        for side in &self.sides {
            for database in side.replica.databases() {
                Database::connect(&bed.target, database).await?.run("VACUUM ANALYZE").await?;
            }
        }
        Ok(())
    }

    /// Before a round: as after a while in which nothing happened. A slot that was switched off right after a backlog
    /// would begin by decoding it again, so each way is switched on until it has confirmed what there was.
    pub async fn rest(&mut self, bed: &Bed) -> Result<()> {
        self.vacuum(bed).await?;
        let marker = self.mark().await?;
        let written = self.source.written().await?;
        bed.checkpoint().await?;
        for side in &mut self.sides {
            let begun = side.replica.switch_on(bed).await?;
            side.watch.wait(&mut side.replica, marker, marker, begun).await?;
            side.replica.confirmed(bed, written).await?;
            side.replica.switch_off(bed).await?;
        }
        Ok(())
    }

    pub async fn strike(self, bed: &Bed) -> Result<()> {
        for side in self.sides {
            side.replica.remove(bed).await?;
        }
        Ok(())
    }
}

impl Side {
    async fn set(way: Way, bed: &Bed, play: &Play<'_>, options: &Options) -> Result<Self> {
        let databases = way.databases(play.targets);
        for name in &databases {
            let target = bed.renew_target(name).await?;
            target.run(play.sql).await?;
            target.run(marker::SCHEMA).await?;
        }
        let watch = Watch::open(bed, &databases).await?;
        Ok(Self { replica: Replica::new(way, bed, databases, play.session, options).await?, watch })
    }
}
