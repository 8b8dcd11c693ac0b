//! Everything that was measured, and under which circumstances: the JSON.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bed::Bed;
use crate::copy::Copied;
use crate::drain::Drained;
use crate::lag::Lags;
use crate::options::{Options, Over};

/// Raw figures of every round; times are in seconds where the name does not say otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub walferry: String,
    /// What the server says of its version.
    pub postgres: String,
    pub cpus: usize,
    /// Of both servers.
    pub settings: Vec<&'static str>,
    /// What both ways reach both servers by.
    pub over: String,
    pub native_streaming: &'static str,
    /// Lines added to walferry's configuration.
    pub walferry_settings: Vec<String>,
    pub rounds: u32,
    pub quick: bool,
    pub scale: f64,
    pub drains: Vec<Drained>,
    pub lags: Vec<Lags>,
    pub copies: Vec<Copied>,
}

impl Results {
    /// Nothing measured yet.
    pub async fn new(bed: &Bed, options: &Options) -> Result<Self> {
        Ok(Self {
            walferry: version(options)?,
            postgres: bed.on_source.value("SELECT version()", &[]).await?,
            cpus: std::thread::available_parallelism()?.get(),
            settings: Bed::settings(bed.site.binaries.major),
            over: over(options.over),
            native_streaming: options.native_streaming.as_str(),
            walferry_settings: options.set.clone(),
            rounds: options.rounds(),
            quick: options.quick,
            scale: options.scale,
            drains: Vec::new(),
            lags: Vec::new(),
            copies: Vec::new(),
        })
    }

    /// Under which circumstances, as text.
    pub fn heading(&self) -> String {
        let mut text = format!(
            "{}\n{}, {} CPUs, rounds: {}\nboth servers, reached over {}: {}\n\
             subscriptions: binary = true, streaming = {}\n",
            self.postgres,
            self.walferry,
            self.cpus,
            self.rounds,
            self.over,
            self.settings.join(" "),
            self.native_streaming,
        );
        if !self.walferry_settings.is_empty() {
            text += &format!("walferry: {}\n", self.walferry_settings.join(", "));
        }
        text
    }
}

/// In words. By TCP, what a small message costs its sender depends on the congestion control.
fn over(over: Over) -> String {
    let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok();
    match control.filter(|_| over == Over::Tcp) {
        Some(control) => format!("{} ({})", over.as_str(), control.trim()),
        None => over.as_str().to_owned(),
    }
}

/// Of the program that is measured.
fn version(options: &Options) -> Result<String> {
    let program = &options.walferry;
    let output = std::process::Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
