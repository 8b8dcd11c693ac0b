//! COPY out of the source into COPY on the target: bytes as they come, rows never assembled.
//!
//! Memory is bounded by the stretches the connections hand out, whatever the size of a row: while one is written to
//! the target the next is read from the source, and no more.

use bytes::Bytes;

use super::rate::Rate;
use super::snapshot::{ReadError, Reading};
use crate::postgres::PgError;
use crate::postgres::wire::WireConnection;

/// Which side failed.
#[derive(Debug)]
pub enum PumpError {
    /// The side that is read.
    Source(ReadError),
    /// The side that is written.
    Target(PgError),
}

/// Carries all that is read into the `COPY … FROM STDIN` that the target has begun, ends that, and gives the number of
/// rows the target took; no faster than `rate` lets it. `meter` is told of every stretch of bytes. (Several COPYs that
/// are read one after the other are as good as one in text, which has neither header nor end mark in protocol 3.0; in
/// binary it may be only one.) After an error both connections are to be closed.
pub async fn pump(
    reading: &mut Reading<'_>,
    target: &mut WireConnection,
    rate: Option<&Rate>,
    mut meter: impl FnMut(usize),
) -> Result<u64, PumpError> {
    let mut stretch = next(reading).await?;
    while let Some(bytes) = stretch {
        meter(bytes.len());
        stretch = match rate {
            None => tokio::try_join!(write(target, bytes), next(reading))?.1,
            Some(rate) => {
                write_slowly(target, bytes, rate).await?;
                next(reading).await?
            }
        };
    }
    target.finish_copy_in().await.map_err(PumpError::Target)
}

async fn next(reading: &mut Reading<'_>) -> Result<Option<Bytes>, PumpError> {
    reading.next().await.map_err(PumpError::Source)
}

/// Nothing gathers: what gathered would come all at once.
async fn write_slowly(target: &mut WireConnection, mut bytes: Bytes, rate: &Rate) -> Result<(), PumpError> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(Rate::AT_ONCE));
        let length = piece.len();
        write(target, piece).await?;
        target.flush_copy_in().await.map_err(PumpError::Target)?;
        rate.pass(length).await;
    }
    Ok(())
}

async fn write(target: &mut WireConnection, bytes: Bytes) -> Result<(), PumpError> {
    target.copy_in(bytes).await.map_err(PumpError::Target)
}
