//! COPY in both directions, as a stream of bytes, and the statements around it: messages are neither assembled on the
//! way out of a server nor as large as rows on the way in.

use bytes::{BufMut, Bytes};
use postgres_protocol::message::frontend;

use super::reader::CopyPiece;
use super::{Frame, Progress, Running, TextRow, WireConnection};
use crate::postgres::PgError;
use crate::sql::Sql;

/// The largest CopyData sent; where messages are cut means nothing to the server.
const PIECE: usize = 1 << 20;
/// Data is sent when this much has gathered.
const FLUSH: usize = 256 * 1024;

/// What a script brings, one after the other.
#[derive(Debug)]
pub enum Answer {
    /// A row of a query.
    Row(TextRow),
    /// A stretch of COPY data, cut anywhere (a row may span several): memory stays bounded whatever a row's size.
    Data(Bytes),
    /// A statement has come to its end.
    Done,
    /// All have, and the session is free.
    End,
}

impl WireConnection {
    /// Sends statements, `COPY … TO STDOUT` among them, in one message: no round trip lies between them, and after an
    /// error none of the rest is run. Then call [`Self::answer`] until it gives [`Answer::End`].
    pub async fn start_script(&mut self, sql: &Sql) -> Result<(), PgError> {
        self.send_query(sql)?;
        self.send().await?;
        self.running = Running::Script;
        Ok(())
    }

    /// What comes next of the script. Cancel-safe until it has given [`Answer::End`].
    pub async fn answer(&mut self) -> Result<Answer, PgError> {
        if self.running != Running::Script {
            return Err(self.not_running("script"));
        }
        loop {
            let frame = match self.reader.copy_piece().await? {
                CopyPiece::Data(data) => return Ok(Answer::Data(data)),
                CopyPiece::Other(frame) => frame,
            };
            match frame.tag {
                b'T' | b'H' | b'c' => {}
                b'D' => return Ok(Answer::Row(self.text_row(frame.body)?)),
                b'C' | b'I' => return Ok(Answer::Done),
                b'Z' => {
                    self.running = Running::Nothing;
                    return Ok(Answer::End);
                }
                b'E' => return Err(self.fail(frame).await),
                _ => return Err(self.reader.unexpected(&frame, "a script")),
            }
        }
    }

    /// Sends `COPY … FROM STDIN`, the last of what may be several statements in one message. Gives the rows of those
    /// before it, once the server waits for data.
    pub async fn start_copy_in(&mut self, sql: &Sql) -> Result<Vec<TextRow>, PgError> {
        self.send_query(sql)?;
        self.send().await?;
        let mut rows = Vec::new();
        loop {
            let frame = self.reader.frame().await?;
            match frame.tag {
                b'T' | b'C' => {}
                b'D' => rows.push(self.text_row(frame.body)?),
                b'G' => {
                    self.running = Running::CopyIn;
                    return Ok(rows);
                }
                b'E' => return Err(self.fail(frame).await),
                _ => return Err(self.reader.unexpected(&frame, "the answer to COPY FROM STDIN")),
            }
        }
    }

    /// Sends a stretch of COPY data, cut anywhere. An error the server has already reported is returned; the session
    /// can be used afterwards.
    pub async fn copy_in(&mut self, mut data: Bytes) -> Result<(), PgError> {
        if self.running != Running::CopyIn {
            return Err(self.not_running("COPY FROM STDIN"));
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

    /// Sends what has gathered of COPY data, however little.
    pub async fn flush_copy_in(&mut self) -> Result<(), PgError> {
        match self.running {
            Running::CopyIn => self.push().await,
            Running::Nothing | Running::Script => Err(self.not_running("COPY FROM STDIN")),
        }
    }

    /// Ends COPY FROM STDIN; the number of rows the server took.
    pub async fn finish_copy_in(&mut self) -> Result<u64, PgError> {
        if self.running != Running::CopyIn {
            return Err(self.not_running("COPY FROM STDIN"));
        }
        frontend::copy_done(self.writer.buffer());
        self.end_copy_in().await
    }

    /// Ends COPY FROM STDIN with CopyFail; the session can be used afterwards. `why` appears in the server's log.
    pub async fn fail_copy_in(&mut self, why: &str) -> Result<(), PgError> {
        if self.running != Running::CopyIn {
            return Err(self.not_running("COPY FROM STDIN"));
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
        self.running = Running::Nothing;
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
        self.running = Running::Nothing;
        let error = self.reader.server_error(frame);
        // The server drops what is left of the flight (`postgres.c`, case 'd' of PostgresMain), but a message half sent
        // must be completed: so write on while waiting for ReadyForQuery. After FATAL the connection ends instead.
        let _ended = self.exchange(|frame| Ok(if frame.tag == b'Z' { Progress::Done } else { Progress::More })).await;
        Err(error)
    }

    fn not_running(&self, what: &str) -> PgError {
        PgError::Usage { message: format!("{}: no {what} is running", self.peer) }
    }
}
