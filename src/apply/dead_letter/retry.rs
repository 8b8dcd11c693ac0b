//! A letter becomes a change: applied to the target as it is now, and removed in the same transaction.
//!
//! The transaction holds the stream's progress row first, so nothing of the stream is applied meanwhile: what is found
//! of the letter, of its row and of its successors stays so. Without `force` a letter is applied only to the row that
//! it has met; with it, as the stream would apply it under `conflicts = "source_wins"`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::letter::{Stored, read};
use super::version::as_they_were;
use super::write::{Keyed, plain, versions};
use super::{Lettered, OnError, SetAside};
use crate::apply::bulk::BulkMode;
use crate::apply::error::{ApplyError, ConflictKind};
use crate::apply::exact::{AppliedTo, Applier, ConflictPolicy, position};
use crate::apply::flight::Values;
use crate::apply::observer::Observer;
use crate::apply::progress::{Epoch, Stream};
use crate::apply::session::{Session, SessionOptions};
use crate::change::{Part, PgTime};
use crate::error::{Judged, Verdict, chain};
use crate::lsn::{DurableLsn, EndLsn, Lsn};
use crate::postgres::PgError;
use crate::relation::TableName;
use crate::row::OldRow;
use crate::sql::Sql;

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has the change; the letter is gone.
    Applied,
    /// There is no such letter any more.
    Missing,
    /// It is as it was.
    Refused {
        /// What the target answered, where it was asked.
        sqlstate: Option<String>,
        /// Why, without values.
        why: String,
        /// What helps.
        hint: String,
    },
}

/// Applies letters of one stream to one target.
pub struct Retrier {
    applier: Applier,
    stream: String,
}

impl Retrier {
    /// Connects to a target.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn connect(options: &SessionOptions, stream: &str) -> Result<Self, PgError> {
        let session = Session::open(options).await?;
        let nobody = String::new;
        let progress =
            Stream { name: nobody(), system_identifier: nobody(), timeline: 0, database: nobody(), slot: nobody() };
        let to = AppliedTo {
            stream: progress,
            epoch: Epoch::NONE,
            policy: ConflictPolicy::Stop,
            on_error: OnError::Halt,
            bulk: BulkMode::Never,
            copied: Arc::default(),
            observer: Arc::new(Nobody),
        };
        let mut applier = Applier::new(session, to, EndLsn::new(Lsn::ZERO));
        applier.lettered = Lettered::none(stream);
        Ok(Self { applier, stream: stream.to_owned() })
    }

    /// Applies a letter, unless it is older than its row (`force`: even so).
    ///
    /// # Errors
    /// The connection, or what may pass by itself: nothing was changed.
    pub async fn retry(&mut self, id: i64, force: bool) -> Result<Outcome, ApplyError> {
        let tried = self.attempt(id, force).await;
        let outcome = match tried {
            Ok(outcome) => outcome,
            Err(error) => match refusal(&error) {
                Some(refused) if self.applier.session.is_open() => refused,
                _ => return Err(error),
            },
        };
        if outcome != Outcome::Applied {
            self.applier.rollback().await?;
        }
        if let Outcome::Refused { sqlstate, why, .. } = &outcome {
            let tried = Sql::new(
                "UPDATE walferry.dead_letter SET retries = retries + 1, sqlstate = coalesce($2, sqlstate),
                     error = CASE WHEN $2 IS NULL THEN error ELSE $3 END
                 WHERE id = $1",
            );
            self.applier.session.client.execute(&tried, &[&id, &sqlstate, &plain(why)]).await?;
        }
        Ok(outcome)
    }

    async fn attempt(&mut self, id: i64, force: bool) -> Result<Outcome, ApplyError> {
        self.applier.session.tidy().await?;
        self.applier.session.control(&Sql::new("BEGIN")).await?;
        let stream = Sql::literal(&self.stream);
        let hold = Sql::format(
            "SELECT 1 FROM walferry.progress WHERE stream = {} OR lane_of = {} ORDER BY stream FOR UPDATE",
            &[&stream, &stream],
        );
        self.applier.session.wire.query(&hold).await?;
        let Some(letter) = read(&mut self.applier.session, &self.stream, id).await? else {
            return Ok(Outcome::Missing);
        };
        if !force && let Some(why) = self.is_late(&letter).await? {
            return Ok(why);
        }
        let applier = &mut self.applier;
        applier.policy = if force { ConflictPolicy::SourceWins } else { ConflictPolicy::Stop };
        applier.copied = Arc::new(HashMap::from([(letter.table.clone(), None)]));
        let (part, before) = (Arc::new(letter.part()), Found::at(&mut applier.session, &letter).await?);
        if !force && !letter.fits(&before) {
            return Ok(newer(&letter, &before));
        }
        let gone = letter.what == "delete" && before.old.is_none() && !letter.has_no_key();
        let missing = if gone { Vec::new() } else { applier.stepwise(&part).await? };
        if !missing.is_empty() && letter.what == "insert" {
            let hint = format!("A trigger or rule of {} on the target leaves the row out.", letter.table);
            return Ok(refused("the row was not inserted", hint));
        }
        let after = Found::at(&mut applier.session, &letter).await?;
        self.carry_along(&letter, &before, &after).await?;
        let delete = Sql::format("DELETE FROM walferry.dead_letter WHERE id = {}", &[&Sql::number(id)]);
        self.applier.session.control(&delete).await?;
        // Constraints that are deferred are checked now.
        match self.applier.session.wire.query(&Sql::new("COMMIT")).await {
            Ok(_) => Ok(Outcome::Applied),
            Err(PgError::Server(source)) if PgError::Server(source.clone()).verdict() != Verdict::Retry => {
                Err(ApplyError::RefusedCommit { lsn: position(&part), source })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why the letter is not to be applied now, whatever its row is.
    async fn is_late(&mut self, letter: &Stored) -> Result<Option<Outcome>, PgError> {
        let give_up = "Drop it (walferry dead-letter drop), or say --force to have it applied all the same.";
        if let Some(lsn) = &letter.superseded_lsn {
            let why = format!("a later change, of {lsn}, has deleted its row or brought all of it");
            return Ok(Some(refused(why, give_up)));
        }
        let session = &mut self.applier.session;
        let [stream, schema, name] = [&self.stream, &letter.table.schema, &letter.table.name].map(|n| Sql::literal(n));
        let copied = Sql::format(
            "SELECT copy_lsn::text FROM walferry.table_state
             WHERE stream = {} AND schema_name = {} AND table_name = {} AND copy_lsn >= {}::pg_lsn",
            &[&stream, &schema, &name, &Sql::literal(&letter.end_lsn.lsn().to_string())],
        );
        if let Some(lsn) = session.wire.query(&copied).await?.into_iter().flatten().flatten().next() {
            return Ok(Some(refused(format!("the table was copied again since, at {lsn}"), give_up)));
        }
        let keys: Vec<Sql> = letter.key.iter().chain(&letter.new_key).map(|key| Sql::literal(key)).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let keys = Sql::join(&keys, ", ");
        let earlier = Sql::format(
            "SELECT id::text FROM walferry.dead_letter
             WHERE stream = {} AND schema_name = {} AND table_name = {} AND id < {} AND superseded_lsn IS NULL
               AND (key IN ({}) OR new_key IN ({}))
             ORDER BY id LIMIT 1",
            &[&stream, &schema, &name, &Sql::number(letter.id), &keys, &keys],
        );
        let earlier = session.wire.query(&earlier).await?.into_iter().flatten().flatten().next();
        Ok(earlier.map(|earlier| {
            let hint =
                format!("Retry or drop letter {earlier} first, or say --force to have this one applied before it.");
            refused(format!("letter {earlier} is of the same row, and older"), hint)
        }))
    }

    /// Later letters of the same row have met it as this one has, and go on from what it is now.
    async fn carry_along(&mut self, letter: &Stored, before: &Found, after: &Found) -> Result<(), PgError> {
        let session = &mut self.applier.session;
        let [stream, schema, name] = [&self.stream, &letter.table.schema, &letter.table.name].map(|n| Sql::literal(n));
        let mut keys = vec![(&letter.key, &before.old, &after.old)];
        if letter.new_key.is_some() {
            keys.push((&letter.new_key, &before.new, &after.new));
        }
        for (key, before, after) in keys {
            let Some(key) = key else { continue };
            let later = Sql::format(
                "SELECT id::text, found FROM walferry.dead_letter
                 WHERE stream = {} AND schema_name = {} AND table_name = {} AND id > {} AND key = {}",
                &[&stream, &schema, &name, &Sql::number(letter.id), &Sql::literal(key)],
            );
            for row in session.wire.query(&later).await? {
                let [Some(id), found] = &row[..] else { continue };
                if !as_they_were(found.as_deref(), before.as_deref()) {
                    continue;
                }
                let found = after.as_deref().map_or(Sql::new("NULL"), Sql::literal);
                let carried = Sql::format(
                    "UPDATE walferry.dead_letter SET found = {} WHERE id = {}::bigint",
                    &[&found, &Sql::literal(id)],
                );
                session.control(&carried).await?;
            }
        }
        Ok(())
    }
}

/// The versions of the rows that a letter is about.
struct Found {
    /// Of its key as it was.
    old: Option<String>,
    /// As it was to be.
    new: Option<String>,
}

impl Found {
    async fn at(session: &mut Session, letter: &Stored) -> Result<Self, ApplyError> {
        let Some(change) = Keyed::of(&letter.change) else { return Ok(Self { old: None, new: None }) };
        let table = session.table(change.relation, letter.end_lsn.lsn()).await?;
        let old_is_full = matches!(change.old, Some(OldRow::Full(_)));
        let row = Values { new: change.new, old: change.old.map(OldRow::row), old_is_full, by_new: false };
        let old = versions(session, &table, row).await?;
        let new = match (&letter.new_key, change.new) {
            (Some(_), Some(new)) => versions(session, &table, Values::of(new)).await?,
            _ => None,
        };
        Ok(Self { old, new })
    }
}

impl Stored {
    /// Whether the row is the one that the letter has met, and no newer one.
    fn fits(&self, now: &Found) -> bool {
        match self.what {
            _ if self.has_no_key() => true,
            "insert" => now.old.is_none(),
            "delete" => now.old.is_none() || as_they_were(self.found.as_deref(), now.old.as_deref()),
            _ => as_they_were(self.found.as_deref(), now.old.as_deref()),
        }
    }

    /// Nothing tells then which row it is about but all of its values.
    fn has_no_key(&self) -> bool {
        self.key.is_none()
    }
}

fn refused(why: impl Into<String>, hint: impl Into<String>) -> Outcome {
    Outcome::Refused { sqlstate: None, why: why.into(), hint: hint.into() }
}

fn newer(letter: &Stored, now: &Found) -> Outcome {
    const FORCE: &str = "Compare it with the source's. Then drop the letter, or say --force to have it applied all the \
                         same.";
    let why = match (letter.what, &letter.found, &now.old) {
        ("insert", ..) => "a row of this key is there, which may be newer",
        (_, Some(_), None) => "its row has been deleted since",
        (_, None, Some(_)) => "its row was missing and has come since: it may be newer",
        _ => "its row has been written since: it may be newer",
    };
    refused(why, FORCE)
}

/// What an error says of the letter; `None`: it says nothing of it.
fn refusal(error: &ApplyError) -> Option<Outcome> {
    if let ApplyError::Gone { table, .. } = error {
        return Some(refused(error.to_string(), format!("Create {table} on the target, or drop the letter.")));
    }
    let Verdict::Halt { hint } = error.verdict() else { return None };
    let (sqlstate, why) = match error {
        ApplyError::Refused { source, .. } | ApplyError::RefusedCommit { source, .. } => {
            (Some(source.code.clone()), source.safe_message())
        }
        ApplyError::Conflict { kind: ConflictKind::UpdateMissing, .. } => (None, "its row is not there".to_owned()),
        ApplyError::Conflict { kind, .. } => (None, kind.to_string()),
        ApplyError::Schema { .. } => (None, chain(error)),
        ApplyError::Postgres(PgError::Server(server)) => (Some(server.code.clone()), server.safe_message()),
        _ => return None,
    };
    Some(Outcome::Refused { sqlstate, why, hint })
}

/// The command tells what becomes of each letter itself.
struct Nobody;

impl Observer for Nobody {
    fn committed(&self, _: EndLsn, _: Option<PgTime>, _: Option<Duration>) {}
    fn durable(&self, _: DurableLsn) {}
    fn applied(&self, _: &[Arc<Part>]) {}
    fn conflict(&self, _: ConflictKind, _: &TableName, _: &str, _: Lsn) {}
    fn dead_letter(&self, _: &SetAside) {}
    fn dead_letters(&self, _: u64) {}
    fn in_bulk(&self, _: u64) {}
    fn fell_back(&self, _: Option<&TableName>, _: &str) {}
    fn running(&self) {}
    fn failed(&self, _: &ApplyError, _: &Verdict) {}
}
