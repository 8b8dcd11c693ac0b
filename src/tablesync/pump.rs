//! COPY out of the source into COPY on the target: bytes as they come, rows never assembled.
//!
//! Memory is bounded by the stretches the connections hand out, whatever the size of a row: while one is written to
//! the target the next is read from the source, and no more.

use bytes::Bytes;

use super::plan::Read;
use crate::postgres::PgError;
use crate::postgres::wire::WireConnection;
use crate::sql::Sql;

/// Which side failed.
#[derive(Debug)]
pub enum PumpError {
    /// The side that is read.
    Source(PgError),
    /// The side that is written.
    Target(PgError),
}

/// Runs the `COPY … TO STDOUT` statements one after the other into one `COPY … FROM STDIN`, and gives the number of
/// rows the target took. `meter` is told of every stretch of bytes. (COPY text data has neither header nor end mark
/// in protocol 3.0, so several are as good as one.) After an error both connections are to be closed.
pub async fn pump(
    source: &mut WireConnection,
    target: &mut WireConnection,
    reads: &[Read],
    into: &Sql,
    mut meter: impl FnMut(usize),
) -> Result<u64, PumpError> {
    target.start_copy_in(into).await.map_err(PumpError::Target)?;
    for read in reads {
        source.start_copy_out(&read.select).await.map_err(PumpError::Source)?;
        let mut stretch = source.copy_out().await.map_err(PumpError::Source)?;
        while let Some(bytes) = stretch {
            meter(bytes.len());
            stretch = tokio::try_join!(write(target, bytes), next(source))?.1;
        }
    }
    target.finish_copy_in().await.map_err(PumpError::Target)
}

async fn next(source: &mut WireConnection) -> Result<Option<Bytes>, PumpError> {
    source.copy_out().await.map_err(PumpError::Source)
}

async fn write(target: &mut WireConnection, bytes: Bytes) -> Result<(), PumpError> {
    target.copy_in(bytes).await.map_err(PumpError::Target)
}
