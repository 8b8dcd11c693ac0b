//! The command line of the benchmark.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Compares walferry with PostgreSQL's own logical replication, on throwaway servers on this machine.
#[derive(Debug, Parser)]
#[command(name = "versus_native")]
pub struct Options {
    /// Only these, of W1 to W10, W6-lz4, targets8, lag and copy
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How often each is measured, the two ways in turn [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Small sizes and one round: a look, not a measurement
    #[arg(long)]
    pub quick: bool,
    /// Multiplies every workload's size
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub scale: f64,
    /// Transactions per second at which the lag is measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [500, 2000])]
    pub lag_rates: Vec<u32>,
    /// How long the lag is measured in each round, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10)]
    pub lag_seconds: u64,
    /// The subscription's `streaming`; parallel needs PostgreSQL 16
    #[arg(long, value_enum, default_value_t = Streaming::Off)]
    pub native_streaming: Streaming,
    /// What both ways reach both servers by
    #[arg(long, value_enum, default_value_t = Over::Tcp)]
    pub over: Over,
    /// A line for the top of walferry's configuration, such as 'apply.batch_bytes = "16MiB"'; may be repeated
    #[arg(long, value_name = "TOML")]
    pub set: Vec<String>,
    /// Another walferry than the one just built
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_walferry"), hide_default_value = true)]
    pub walferry: PathBuf,
    /// The major version of PostgreSQL to use [default: the one on the PATH, else the newest]
    #[arg(long, value_name = "MAJOR", conflicts_with = "bin")]
    pub version: Option<u32>,
    /// The directory with PostgreSQL's server programs
    #[arg(long, value_name = "DIR")]
    pub bin: Option<PathBuf>,
    /// Write every figure to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the results into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Leave the servers' directory in place at the end
    #[arg(long)]
    pub keep: bool,
    /// What `cargo bench` passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What both ways reach both servers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// Unix sockets, as on one machine.
    Socket,
    /// TCP, over loopback.
    Tcp,
}

/// How the subscription receives transactions that are still in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Streaming {
    /// Not at all.
    Off,
    /// Into files, applied when they commit.
    On,
    /// Applied by a process of their own.
    Parallel,
}

impl Over {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "Unix sockets",
            Self::Tcp => "TCP over loopback",
        }
    }
}

impl Streaming {
    /// As CREATE SUBSCRIPTION takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Parallel => "parallel",
        }
    }
}

impl Options {
    /// How often each is measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 })
    }

    /// Whether this is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.eq_ignore_ascii_case(name))
    }

    /// Names that mean nothing.
    pub fn strangers<'a>(&'a self, known: &'a [&str]) -> impl Iterator<Item = &'a String> {
        self.only.iter().filter(|only| !known.iter().any(|known| known.eq_ignore_ascii_case(only)))
    }

    /// The size to take: thousands, so that whatever divides them comes out even.
    pub fn size(&self, full: u64, quick: u64) -> u64 {
        let size = if self.quick { quick } else { full };
        let thousands = (size as f64 * self.scale / 1000.0).round().max(1.0);
        thousands as u64 * 1000
    }
}
