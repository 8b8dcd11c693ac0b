//! Arguments → configuration → logging → runtime → one command → exit code.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode as ProcessExitCode;

use anyhow::Context;
use clap::Parser;
use walferry::admin;
use walferry::cli::{Cli, Command, ExitCode, Output};
use walferry::config::{Config, LogFormat};
use walferry::error::{Judged, Verdict, chain};
use walferry::launcher;
use walferry::launcher::error::LaunchError;
use walferry::launcher::setup::Setup;
use walferry::telemetry::logging::{self, LogControl};

/// Buffers of every size are made in one thread and freed in another, and a copy's and a lane's threads come and go: it
/// gives memory back to the system then. The C library's keeps several times of what is in use, one heap a thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ProcessExitCode {
    let cli = Cli::parse();
    let code = match &cli.command {
        // It brings its own servers and configuration.
        Command::Demo(demo) => finish(block_on(async { answer(admin::demo::run(demo).await) })),
        // They tell of the program itself.
        Command::Completions(completions) => finish(answer(admin::completions::run(*completions))),
        Command::Man(pages) => finish(answer(admin::manual::run(pages))),
        command => with_config(&cli, command),
    };
    code.into()
}

/// Every other command works for a configured stream. All of them refuse a configuration that one of them could not
/// use, `config` and `status` too.
fn with_config(cli: &Cli, command: &Command) -> ExitCode {
    let config = match Config::load(cli.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return refuse(&error, ExitCode::Usage),
    };
    if let Err(error) = Setup::new(config.clone()) {
        return refuse(&error, ExitCode::Usage);
    }
    let log = match logging::start(config.log.format == LogFormat::Json, &config.log.level) {
        Ok(log) => log,
        Err(error) => return refuse(&error, ExitCode::Usage),
    };
    finish(block_on(carry_out(cli, command, config, log)))
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(command)
}

/// A command's own exit code, or that of the error it ended with.
fn answer(ended: Result<ExitCode, admin::CommandError>) -> anyhow::Result<ExitCode> {
    Ok(ended.unwrap_or_else(|error| refuse(&error, error.exit_code())))
}

async fn carry_out(cli: &Cli, command: &Command, config: Config, log: LogControl) -> anyhow::Result<ExitCode> {
    match command {
        Command::Config(flags) if flags.diff => answer(admin::tell::diff(&config, flags.output).await),
        Command::Config(flags) => print_config(&config, flags.output),
        Command::Reload(output) => answer(admin::tell::reload(&config, *output).await),
        Command::Target(command) => answer(admin::target::run(&config, command).await),
        Command::Table(command) => answer(admin::table::run(config, command).await),
        Command::DeadLetter(command) => answer(admin::dead_letter::run(config, command).await),
        Command::LogLevel(level) => answer(admin::tell::log_level(&config, &level.level).await),
        Command::Run => run(config, cli.config.clone(), log).await,
        Command::Check(check) => answer(admin::check::run(config, *check).await),
        Command::Status(output) => answer(admin::status::run(config, *output).await),
        Command::Slot(command) => answer(admin::slot::run(config, command).await),
        Command::Demo(demo) => answer(admin::demo::run(demo).await),
        Command::Completions(completions) => answer(admin::completions::run(*completions)),
        Command::Man(pages) => answer(admin::manual::run(pages)),
    }
}

/// The daemon. What it refuses for good, it has logged with the way out.
async fn run(config: Config, file: Option<PathBuf>, log: LogControl) -> anyhow::Result<ExitCode> {
    match launcher::run(config, file, log).await {
        Ok(()) => Ok(ExitCode::Success),
        Err(error) => match error.downcast_ref::<LaunchError>().map(Judged::verdict) {
            Some(Verdict::Halt { hint }) => {
                eprintln!("error: {error:#}\nhint: {hint}");
                Ok(ExitCode::Refused)
            }
            _ => Err(error),
        },
    }
}

fn print_config(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let text = if output.json { config.render_json() } else { config.render_toml() };
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        // Whoever reads has seen enough (`walferry config | head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Success),
        written => written.map(|()| ExitCode::Success).context("cannot print the configuration"),
    }
}

/// Says why it cannot go on, and what helps.
fn refuse(error: &dyn Judged, code: ExitCode) -> ExitCode {
    eprintln!("error: {}", chain(error));
    if let Verdict::Halt { hint } = error.verdict() {
        eprintln!("hint: {hint}");
    }
    code
}

fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::Failure
    })
}
