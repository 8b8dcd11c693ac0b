//! COPY in both directions, as a stream of bytes: messages are neither assembled on the way out of a server nor as
//! large as rows on the way in.

use bytes::{BufMut, Bytes};
use postgres_protocol::message::frontend;

use super::reader::CopyPiece;
use super::{Copying, Frame, Progress, WireConnection};
use crate::postgres::PgError;
use crate::sql::Sql;

/// The largest CopyData sent; where messages are cut means nothing to the server.
const PIECE: usize = 1 << 20;
/// Data is sent when this much has gathered.
const FLUSH: usize = 256 * 1024;

impl WireConnection {
    /// Sends `COPY … TO STDOUT`; then call [`Self::copy_out`] until it gives `None`.
    pub async fn start_copy_out(&mut self, sql: &Sql) -> Result<(), PgError> {
        self.start_copy(sql, b'H').await?;
        self.copying = Copying::Out;
        Ok(())
    }

    /// The next stretch of COPY data, cut anywhere (a row may span several): memory stays bounded whatever a row's
    /// size. `None` after the server finished without error. Cancel-safe until it has given `None`.
    pub async fn copy_out(&mut self) -> Result<Option<Bytes>, PgError> {
        if self.copying != Copying::Out {
            return Err(self.no_copy("TO STDOUT"));
        }
        loop {
            let frame = match self.reader.copy_piece().await? {
                CopyPiece::Data(data) => return Ok(Some(data)),
                CopyPiece::Other(frame) => frame,
            };
            match frame.tag {
                b'c' | b'C' => {}
                b'Z' => {
                    self.copying = Copying::No;
                    return Ok(None);
                }
                b'E' => return Err(self.fail(frame).await),
                _ => return Err(self.reader.unexpected(&frame, "COPY TO STDOUT")),
            }
        }
    }

    /// Sends `COPY … FROM STDIN`.
    pub async fn start_copy_in(&mut self, sql: &Sql) -> Result<(), PgError> {
        self.start_copy(sql, b'G').await?;
        self.copying = Copying::In;
        Ok(())
    }

    /// Sends a stretch of COPY data, cut anywhere. An error the server has already reported is returned; the session
    /// can be used afterwards.
    pub async fn copy_in(&mut self, mut data: Bytes) -> Result<(), PgError> {
        if self.copying != Copying::In {
            return Err(self.no_copy("FROM STDIN"));
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            let buffer = self.writer.buffer();
            buffer.put_u8(b'd');
            buffer.put_u32(piece.len() as u32 + 4);
            self.writer.share(piece);
            if self.writer.pending() >= FLUSH {
                self.push().await?;
            }
        }
        Ok(())
    }

    /// Ends COPY FROM STDIN; the number of rows the server took.
    pub async fn finish_copy_in(&mut self) -> Result<u64, PgError> {
        if self.copying != Copying::In {
            return Err(self.no_copy("FROM STDIN"));
        }
        frontend::copy_done(self.writer.buffer());
        self.end_copy_in().await
    }

    /// Ends COPY FROM STDIN with CopyFail; the session can be used afterwards. `why` appears in the server's log.
    pub async fn fail_copy_in(&mut self, why: &str) -> Result<(), PgError> {
        if self.copying != Copying::In {
            return Err(self.no_copy("FROM STDIN"));
        }
        frontend::copy_fail(&why.replace('\0', " "), self.writer.buffer())
            .map_err(|error| PgError::Usage { message: error.to_string() })?;
        match self.end_copy_in().await {
            // "COPY from stdin failed: …": what was asked for. Any other error of the COPY has the same effect.
            Err(PgError::Server(error)) if !error.is_fatal() => Ok(()),
            Ok(_) => Err(self.reader.violation("COPY FROM STDIN succeeded although it was told to fail")),
            Err(error) => Err(error),
        }
    }

    async fn end_copy_in(&mut self) -> Result<u64, PgError> {
        let (mut rows, mut refused) = (0, None);
        let ended = self.exchange(|frame| {
            match frame.tag {
                b'C' => rows = frame.rows().unwrap_or(0),
                b'Z' => return Ok(Progress::Done),
                b'E' if refused.is_none() => refused = Some(frame),
                _ => {}
            }
            Ok(Progress::More)
        });
        let ended = ended.await;
        self.copying = Copying::No;
        match (refused, ended) {
            (Some(frame), _) => Err(self.reader.server_error(frame)),
            (None, ended) => ended.map(|()| rows),
        }
    }

    /// Writes what has gathered; if the server reports an error meanwhile, ends the COPY with it.
    async fn push(&mut self) -> Result<(), PgError> {
        let frame: Frame = tokio::select! {
            biased;
            frame = self.reader.frame() => frame?,
            flushed = self.writer.flush() => match flushed {
                Ok(()) => return Ok(()),
                Err(error) => return Err(self.last_words(error).await),
            },
        };
        if frame.tag != b'E' {
            return Err(self.reader.unexpected(&frame, "COPY FROM STDIN"));
        }
        self.copying = Copying::No;
        let error = self.reader.server_error(frame);
        // The server drops what is left of the flight (`postgres.c`, case 'd' of PostgresMain), but a message half sent
        // must be completed: so write on while waiting for ReadyForQuery. After FATAL the connection ends instead.
        let _ended = self.exchange(|frame| Ok(if frame.tag == b'Z' { Progress::Done } else { Progress::More })).await;
        Err(error)
    }

    fn no_copy(&self, which: &str) -> PgError {
        PgError::Usage { message: format!("{}: no COPY {which} is running", self.peer) }
    }
}
