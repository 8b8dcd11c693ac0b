//! What the servers themselves need: `COPY … TO STDOUT` of one session into `COPY … FROM STDIN` of another, table after
//! table.

use std::pin::pin;
use std::time::Instant;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};

use crate::bed::{Bed, SOURCE};
use crate::database::Database;

/// Rows are handed on in pieces of this size.
const PIECE: usize = 64 * 1024;

/// The format of COPY.
#[derive(Clone, Copy, Debug)]
pub enum Format {
    Text,
    Binary,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }
}

/// Seconds that all tables of the source took.
pub async fn pipe(bed: &Bed, database: &str, format: Format) -> Result<f64> {
    let source = Database::connect(&bed.source, SOURCE).await?;
    let target = Database::connect(&bed.target, database).await?;
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    let with = format!("WITH (FORMAT {})", format.as_str());
    let begun = Instant::now();
    for table in source.column::<String>(tables, &[]).await? {
        let mut rows = pin!(source.client.copy_out(&format!("COPY {table} TO STDOUT {with}")).await?);
        let sink = target.client.copy_in::<_, Bytes>(&format!("COPY {table} FROM STDIN {with}")).await?;
        let mut sink = pin!(sink);
        let mut piece = BytesMut::with_capacity(2 * PIECE);
        while let Some(row) = rows.try_next().await? {
            piece.extend_from_slice(&row);
            if piece.len() >= PIECE {
                sink.send(piece.split().freeze()).await?;
            }
        }
        sink.send(piece.freeze()).await?;
        sink.finish().await?;
    }
    Ok(begun.elapsed().as_secs_f64())
}
