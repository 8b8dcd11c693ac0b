//! *Copy*: how long the initial copy takes: of walferry, of a subscription (its tablesync workers), and for comparison
//! a plain pipe from one COPY into another, as text and in binary.
//!
//! Each starts with empty target tables and ends when the last row is committed there.

mod pipe;

use anyhow::{Context, Result};
use serde::Serialize;

use self::pipe::{Format, pipe};
use crate::bed::Bed;
use crate::both::{Both, Way};
use crate::equality;
use crate::marker;
use crate::options::Options;
use crate::replica::{Replica, Usage};

/// What is copied.
struct Case {
    name: &'static str,
    title: &'static str,
    sql: &'static str,
    full: u64,
    quick: u64,
}

const CASES: &[Case] = &[
    Case {
        name: "copy wide",
        title: "initial copy of one table of 1 KB rows",
        sql: include_str!("wide.sql"),
        full: 1_000_000,
        quick: 100_000,
    },
    Case {
        name: "copy small",
        title: "initial copy of 100 small tables",
        sql: include_str!("small.sql"),
        full: 100_000,
        quick: 10_000,
    },
];

/// One way in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Copy {
    pub seconds: f64,
    /// What runs at the end; the workers of tables that are done are gone.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A round.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    #[serde(flatten)]
    pub both: Both<Copy>,
    /// Seconds of the pipes.
    pub text_pipe: f64,
    pub binary_pipe: f64,
}

/// A case's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    pub name: &'static str,
    pub title: &'static str,
    pub rows: u64,
    /// Of the tables on the source, without indexes.
    pub bytes: u64,
    pub rounds: Vec<Round>,
}

/// Measures all cases.
pub async fn measure(bed: &Bed, options: &Options) -> Result<Vec<Copied>> {
    let mut all = Vec::new();
    for case in CASES {
        all.push(rounds(bed, case, options).await?);
    }
    Ok(all)
}

async fn rounds(bed: &Bed, case: &Case, options: &Options) -> Result<Copied> {
    let rows = options.size(case.full, case.quick);
    let source = bed.renew_source().await?;
    for statement in [case.sql, marker::SCHEMA, &format!("CALL fill({rows}, 1)"), "VACUUM ANALYZE"] {
        source.run(statement).await?;
    }
    let size = "SELECT sum(pg_table_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE nspname = 'public' AND relkind = 'r'";
    let bytes = source.value::<i64>(size, &[]).await?.cast_unsigned();
    let mut copied = Copied { name: case.name, title: case.title, rows, bytes, rounds: Vec::new() };
    for number in 1..=options.rounds() {
        let both = Both::in_turn(number, async |way| copy(bed, case, way, options).await).await?;
        let text_pipe = piped(bed, case, Format::Text).await?;
        let binary_pipe = piped(bed, case, Format::Binary).await?;
        let round = Round { both, text_pipe, binary_pipe };
        println!(
            "{:<10} round {number}/{}: native {:.2} s, walferry {:.2} s, \
             pipe {text_pipe:.2} s (text), {binary_pipe:.2} s (binary)",
            case.name,
            options.rounds(),
            both.native.seconds,
            both.walferry.seconds,
        );
        copied.rounds.push(round);
    }
    Ok(copied)
}

async fn copy(bed: &Bed, case: &Case, way: Way, options: &Options) -> Result<Copy> {
    let databases = way.databases(1);
    empty(bed, case, &databases[0]).await?;
    let mut replica = Replica::new(way, bed, databases, "", options).await?;
    bed.checkpoint().await?;
    let begun = replica.start_copy(bed).await?;
    replica.copied().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let usage = replica.usage(bed).await?;
    equality::verify(bed, &replica.databases()[0]).await.with_context(|| format!("after the copy by {way}"))?;
    replica.remove(bed).await?;
    Ok(Copy { seconds, usage })
}

async fn piped(bed: &Bed, case: &Case, format: Format) -> Result<f64> {
    empty(bed, case, "piped").await?;
    bed.checkpoint().await?;
    pipe(bed, "piped", format).await
}

async fn empty(bed: &Bed, case: &Case, database: &str) -> Result<()> {
    let target = bed.renew_target(database).await?;
    target.run(case.sql).await?;
    target.run(marker::SCHEMA).await
}
