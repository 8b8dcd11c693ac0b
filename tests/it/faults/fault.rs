//! What can break, and how: the rows and columns of the table.

use std::time::Duration;

/// What breaks. The names are those of the printed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Daemon,
    Source,
    /// The target that is put aside and comes back where a cell is about that.
    TargetA,
    TargetB,
    SourceNetwork,
    NetworkA,
    NetworkB,
}

impl Part {
    /// Every one of them.
    pub const ALL: [Part; 7] =
        [Part::Daemon, Part::Source, Part::TargetA, Part::TargetB, Part::SourceNetwork, Part::NetworkA, Part::NetworkB];

    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Part::Daemon => "daemon",
            Part::Source => "source",
            Part::TargetA => "target A",
            Part::TargetB => "target B",
            Part::SourceNetwork => "network to source",
            Part::NetworkA => "network to A",
            Part::NetworkB => "network to B",
        }
    }

    /// The number of the target that feels it; none, if it is felt by all.
    pub fn place(self) -> Option<usize> {
        match self {
            Part::TargetA | Part::NetworkA => Some(0),
            Part::TargetB | Part::NetworkB => Some(1),
            Part::Daemon | Part::Source | Part::SourceNetwork => None,
        }
    }
}

/// How it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Killed,
    /// Ended in order.
    Stopped,
    /// SIGSTOP: it keeps its connections and does nothing.
    Hung,
    /// Connections are reset, new ones too.
    Cut,
    /// A few kilobytes a second.
    Slow,
    /// The other side is gone, and nobody is told.
    HalfOpen,
    /// Nothing comes through, and nothing is lost.
    Stalled,
    DiskFull,
    ReadOnly,
    NoConnections,
    StatementTimeout,
    /// By another writer, who locks the same tables in another order.
    Deadlock,
}

impl Fault {
    /// Every one of them.
    pub const ALL: [Fault; 12] = [
        Fault::Killed,
        Fault::Stopped,
        Fault::Hung,
        Fault::Cut,
        Fault::Slow,
        Fault::HalfOpen,
        Fault::Stalled,
        Fault::DiskFull,
        Fault::ReadOnly,
        Fault::NoConnections,
        Fault::StatementTimeout,
        Fault::Deadlock,
    ];

    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Killed => "killed",
            Fault::Stopped => "stopped",
            Fault::Hung => "hung",
            Fault::Cut => "cut",
            Fault::Slow => "slow",
            Fault::HalfOpen => "half-open",
            Fault::Stalled => "stalled",
            Fault::DiskFull => "disk full",
            Fault::ReadOnly => "read-only",
            Fault::NoConnections => "out of connections",
            Fault::StatementTimeout => "statement timeout",
            Fault::Deadlock => "deadlock",
        }
    }

    /// Why this part has no such fault; nothing, if it has.
    pub fn not_of(self, part: Part) -> Option<&'static str> {
        let of_network = matches!(self, Fault::Cut | Fault::Slow | Fault::HalfOpen | Fault::Stalled);
        match (part, self) {
            (Part::SourceNetwork | Part::NetworkA | Part::NetworkB, _) => (!of_network).then_some("a network has none"),
            _ if of_network => Some("see the network to it"),
            (Part::Daemon, Fault::DiskFull) => Some("it writes to no disk"),
            (Part::Daemon, Fault::Killed | Fault::Stopped | Fault::Hung) => None,
            (Part::Daemon, _) => Some("see the servers"),
            (Part::Source, Fault::Deadlock) => Some("it waits for no writer's lock there"),
            (Part::Source | Part::TargetA | Part::TargetB, _) => None,
        }
    }

    /// What the daemon says of it for certain, while the stream runs and the fault is that of a target.
    pub fn sign(self) -> Option<&'static str> {
        match self {
            Fault::DiskFull => Some("53100"),
            Fault::ReadOnly => Some("25006"),
            Fault::NoConnections => Some("53300"),
            Fault::StatementTimeout => Some("57014"),
            // Of the daemon, if it was not the other writer who was the victim.
            Fault::Deadlock => Some("40P01"),
            _ => None,
        }
    }

    /// How long it stays: long enough for what notices it to do so.
    pub fn lasts(self) -> Duration {
        match self {
            // The source and the daemon give up on a silent peer after 2 and 3 s here.
            Fault::HalfOpen | Fault::Stalled => Duration::from_millis(3_500),
            // A statement may take 2 s here.
            Fault::StatementTimeout => Duration::from_millis(2_500),
            _ => Duration::from_millis(700),
        }
    }
}
