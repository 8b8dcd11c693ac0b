//! The initial copy's bytes, from what the source has sent to what the target is sent. Both servers are in memory.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use walferry::postgres::conninfo::Environment;
use walferry::postgres::{ConnectOptions, WireConnection, WireReader, WireWriter};
use walferry::sql::Sql;
use walferry::tablesync::{Reading, pump};

use crate::cases::Shape;
use crate::messages::Value;

/// Bytes of an iteration's rows.
const VOLUME: usize = 8 << 20;

/// The message that ends the data.
const COPY_DONE: &[u8] = b"c\0\0\0\x04";

#[divan::bench(args = Shape::ALL)]
fn pump_rows(bencher: Bencher, shape: Shape) {
    let (rows, bytes, sent) = source(shape);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let copied = bencher
        .counter(ItemsCount::new(rows))
        .counter(BytesCount::new(bytes))
        .with_inputs(|| (connection(Sent(sent.clone()), Taken::default()), target(rows)));
    copied.bench_local_refs(|(source, target)| {
        let taken = runtime.block_on(async {
            let statement = [Sql::new("COPY t TO STDOUT")];
            let mut reading = Reading::start(source, "snapshot", &statement, &[1]).await.expect("a transaction");
            target.start_copy_in(&Sql::new("COPY t FROM STDIN")).await.expect("a COPY");
            pump(&mut reading, target, None, |_| {}).await.expect("a copy")
        });
        assert_eq!(taken, rows as u64);
    });
}

fn connection(
    reader: impl AsyncRead + Send + Sync + Unpin + 'static,
    writer: impl AsyncWrite + Send + Sync + Unpin + 'static,
) -> WireConnection {
    let options = ConnectOptions::resolve("host=/nowhere", &Environment::bare("nobody")).expect("options");
    WireConnection::over(WireReader::new(reader, "memory"), WireWriter::new(writer, "memory"), 170_000, options)
}

/// A server that reports `rows` once it has them.
fn target(rows: usize) -> WireConnection {
    let mut answers = BytesMut::new();
    message(&mut answers, b'C', format!("COPY {rows}\0").as_bytes());
    message(&mut answers, b'Z', b"I");
    let mut ready = BytesMut::new();
    message(&mut ready, b'G', &[0, 0, 0]);
    let taken = Taken::default();
    connection(Answers { ready: ready.freeze(), done: Arc::clone(&taken.done), answers: answers.freeze() }, taken)
}

/// What a source sends for a table of so many rows: their number, their bytes, and all messages.
fn source(shape: Shape) -> (usize, usize, Bytes) {
    let (mut rows, mut bytes) = (0, 0);
    let mut sent = BytesMut::with_capacity(2 * VOLUME);
    message(&mut sent, b'C', b"BEGIN\0");
    message(&mut sent, b'C', b"SET\0");
    message(&mut sent, b'H', &[0, 0, 0]);
    while bytes < VOLUME {
        let line = line(&shape.values(rows, 1));
        message(&mut sent, b'd', line.as_bytes());
        (rows, bytes) = (rows + 1, bytes + line.len());
    }
    message(&mut sent, b'c', b"");
    message(&mut sent, b'C', format!("COPY {rows}\0").as_bytes());
    // The tables' files are those the snapshot knows.
    message(&mut sent, b'T', &[0, 0]);
    message(&mut sent, b'D', b"\0\x01\0\0\0\x01t");
    message(&mut sent, b'C', b"SELECT 1\0");
    message(&mut sent, b'C', b"COMMIT\0");
    message(&mut sent, b'Z', b"I");
    (rows, bytes, sent.freeze())
}

/// A line of COPY's text format.
fn line(values: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::Null | Value::Unchanged => "\\N".to_owned(),
        Value::Text(text) => text.replace('\\', "\\\\"),
    };
    values.iter().map(text).collect::<Vec<_>>().join("\t") + "\n"
}

fn message(out: &mut BytesMut, tag: u8, body: &[u8]) {
    out.put_u8(tag);
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
}

/// What a server has sent, all of it at hand.
struct Sent(Bytes);

impl AsyncRead for Sent {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = buffer.remaining().min(self.0.len());
        buffer.put_slice(&self.0[..count]);
        self.0.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// A target's answers: it takes data, and tells the rest once there is no more.
struct Answers {
    ready: Bytes,
    done: Arc<AtomicBool>,
    answers: Bytes,
}

impl AsyncRead for Answers {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let next = if self.ready.is_empty() && self.done.load(Ordering::Relaxed) {
            std::mem::take(&mut self.answers)
        } else {
            std::mem::take(&mut self.ready)
        };
        if next.is_empty() {
            // Nobody has to be woken: whoever waits for an answer writes meanwhile, and asks again afterwards.
            return Poll::Pending;
        }
        buffer.put_slice(&next);
        Poll::Ready(Ok(()))
    }
}

/// What a server takes, at once and all of it, as a socket does.
#[derive(Default)]
struct Taken {
    done: Arc<AtomicBool>,
}

impl Taken {
    fn take(&self, slices: &[IoSlice<'_>]) -> usize {
        if slices.iter().rev().find(|slice| !slice.is_empty()).is_some_and(|last| last.ends_with(COPY_DONE)) {
            self.done.store(true, Ordering::Relaxed);
        }
        slices.iter().map(|slice| slice.len()).sum()
    }
}

impl AsyncWrite for Taken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.take(&[IoSlice::new(bytes)])))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.take(slices)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
