//! How far a target is behind its source, in bytes and in seconds. Pure: what was observed goes in, with its time.
//!
//! Three things make a lag: what the target was sent and has not stored; WAL that the source has written and that was
//! not handed on yet (a slow target holds the reading up, or the stream is read again); and silence of the source.

use std::time::SystemTime;

use crate::change::PgTime;
use crate::lsn::{EndLsn, Lsn};

/// How a target stands to the stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    /// Whether it is fed.
    attached: bool,
    /// When the oldest transaction committed that it was sent and has not stored; or since when it is not fed.
    since: Option<PgTime>,
    sent: Option<Lsn>,
    stored: Option<Lsn>,
}

impl Waiting {
    /// It is fed from here on.
    pub fn attached(stored: EndLsn) -> Self {
        Self { attached: true, since: None, sent: Some(stored.lsn()), stored: Some(stored.lsn()) }
    }

    /// Whether it is fed.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether it is fed, and has stored all that it was sent.
    pub fn has_stored_all(&self) -> bool {
        self.attached && self.stored >= self.sent
    }

    /// It is no longer fed.
    pub fn detached(&mut self, now: SystemTime) {
        self.attached = false;
        self.since.get_or_insert(PgTime::from_system_time(now));
    }

    /// It was sent the transaction that ends here.
    pub fn sent(&mut self, end: EndLsn, time: PgTime) {
        self.sent = Some(end.lsn());
        // A quick worker may have stored it before this is noted.
        match self.stored.is_some_and(|stored| stored >= end.lsn()) {
            true => self.since = None,
            false => self.since = self.since.or(Some(time)),
        }
    }

    /// It was sent a position, without a transaction.
    pub fn advanced(&mut self, end: EndLsn) {
        self.sent = Some(end.lsn());
    }

    /// It has stored everything up to here; the last of it committed at `time`.
    pub fn stored(&mut self, end: Lsn, time: Option<PgTime>) {
        self.stored = Some(end);
        // What still waits committed after what is stored now.
        self.since = match self.sent {
            Some(sent) if end < sent => self.since.max(time),
            _ if self.attached => None,
            _ => self.since,
        };
    }
}

/// WAL that the source has written and that was not handed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unread {
    /// The earliest end of WAL that was seen and not reached yet, and when it was seen.
    first: Option<(SystemTime, Lsn)>,
    /// The latest.
    last: Option<(SystemTime, Lsn)>,
}

impl Unread {
    /// The source's WAL ends here now.
    pub fn seen(&mut self, now: SystemTime, end: Lsn) {
        self.last = Some((now, end));
        self.first = self.first.or(self.last);
    }

    /// Everything up to here has been handed on.
    pub fn reached(&mut self, received: Lsn) {
        let open = |seen: &(SystemTime, Lsn)| seen.1 > received;
        self.first = self.first.filter(open).or(self.last.filter(open));
    }
}

/// What a lag is made of, beside the target itself.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Everything up to here has been handed on.
    pub received: Option<Lsn>,
    /// What has not.
    pub unread: Unread,
    /// While the source is not heard of: when it last was.
    pub silence: Option<Option<SystemTime>>,
}

/// A target's lag in bytes and in seconds; `None` where it is not known.
pub fn lag(waiting: Waiting, stream: Stream, now: SystemTime) -> (Option<u64>, Option<f64>) {
    let (Some(sent), Some(stored)) = (waiting.sent, waiting.stored) else { return (None, None) };
    let age = |since: SystemTime| now.duration_since(since).unwrap_or_default().as_secs_f64();
    let unread = stream.unread.first.zip(stream.unread.last);
    let behind = !waiting.attached || stored < sent || unread.is_some();
    let end = stream.received.max(unread.map(|(_, (_, end))| end));
    let bytes = if behind { end.map(|end| end.bytes_since(stored)) } else { Some(0) };
    let waited = waiting.since.filter(|_| behind).map_or(0.0, |since| age(since.to_system_time()));
    let waited = unread.map_or(waited, |((since, _), _)| waited.max(age(since)));
    let seconds = match stream.silence {
        None => Some(waited),
        Some(heard) => heard.map(|heard| waited.max(age(heard))),
    };
    (bytes, seconds)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    fn committed(seconds: u64) -> PgTime {
        PgTime::from_system_time(at(seconds))
    }

    fn end(lsn: u64) -> EndLsn {
        EndLsn::new(Lsn::new(lsn))
    }

    fn streaming(received: u64) -> Stream {
        Stream { received: Some(Lsn::new(received)), unread: Unread::default(), silence: None }
    }

    #[test]
    fn what_was_sent_and_not_stored_is_the_lag() {
        let mut waiting = Waiting::attached(end(100));
        assert_eq!(lag(waiting, streaming(900), at(0)), (Some(0), Some(0.0)));
        waiting.sent(end(200), committed(1));
        waiting.sent(end(300), committed(4));
        assert_eq!(lag(waiting, streaming(300), at(5)), (Some(200), Some(4.0)));
        waiting.stored(Lsn::new(200), Some(committed(1)));
        waiting.stored(Lsn::new(300), Some(committed(4)));
        assert_eq!(lag(waiting, streaming(300), at(9)), (Some(0), Some(0.0)));
    }

    #[test]
    fn a_worker_that_is_quicker_than_the_note_leaves_no_lag() {
        let mut waiting = Waiting::attached(end(100));
        waiting.stored(Lsn::new(200), Some(committed(1)));
        waiting.sent(end(200), committed(1));
        waiting.sent(end(300), committed(50));
        assert_eq!(lag(waiting, streaming(300), at(51)), (Some(100), Some(1.0)));
    }

    #[test]
    fn wal_that_was_not_handed_on_is_a_lag_of_its_own() {
        let waiting = Waiting::attached(end(100));
        let mut stream = streaming(100);
        stream.unread.seen(at(0), Lsn::new(500));
        stream.unread.seen(at(5), Lsn::new(900));
        assert_eq!(lag(waiting, stream, at(7)), (Some(800), Some(7.0)));
        stream.unread.reached(Lsn::new(600));
        assert_eq!(lag(waiting, stream, at(7)), (Some(800), Some(2.0)));
        stream.unread.reached(Lsn::new(900));
        assert_eq!(lag(waiting, stream, at(7)), (Some(0), Some(0.0)));
    }

    #[test]
    fn a_target_that_is_not_fed_falls_behind() {
        let mut waiting = Waiting::attached(end(100));
        waiting.detached(at(0));
        assert_eq!(lag(waiting, streaming(400), at(3)), (Some(300), Some(3.0)));
    }

    #[test]
    fn while_the_source_is_silent_its_silence_is_the_least() {
        let waiting = Waiting::attached(end(100));
        let stream = Stream { silence: Some(Some(at(2))), ..streaming(100) };
        assert_eq!(lag(waiting, stream, at(10)), (Some(0), Some(8.0)));
        assert_eq!(lag(waiting, Stream { silence: Some(None), ..stream }, at(10)), (Some(0), None));
        assert_eq!(lag(Waiting::default(), stream, at(10)), (None, None));
    }
}
