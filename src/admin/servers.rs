//! Sessions of a command on the configured servers.

use crate::admin::CommandError;
use crate::config::Config;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::postgres::{Client, PgError};

/// The configuration with its connection strings and patterns read.
///
/// # Errors
/// Names the key that cannot be used.
pub fn setup(config: Config) -> Result<Setup, CommandError> {
    Setup::new(config).map_err(|error| CommandError::at("the configuration cannot be used", error))
}

/// What the sessions of commands are called: the daemon's are `walferry/<stream>`.
pub fn application_name(setup: &Setup) -> String {
    format!("walferry-admin/{}", setup.stream)
}

/// A session on the source.
///
/// # Errors
/// Which server, which step, why.
pub async fn source(setup: &Setup) -> Result<Client, CommandError> {
    let connected = Client::connect(&setup.source, &application_name(setup)).await;
    connected.map_err(|error| CommandError::at("cannot connect to the source", error))
}

/// A session on a target.
///
/// # Errors
/// As [`source`].
pub async fn target(setup: &Setup, target: &TargetSetup) -> Result<Client, CommandError> {
    try_target(setup, target).await.map_err(|error| at(target)(error))
}

/// As [`target`], with the client's own error.
///
/// # Errors
/// As [`Client::connect`].
pub async fn try_target(setup: &Setup, target: &TargetSetup) -> Result<Client, PgError> {
    Client::connect(&target.connect, &application_name(setup)).await
}

/// Says which target an error is about.
pub fn at<E>(target: &TargetSetup) -> impl Fn(E) -> CommandError
where
    E: crate::error::Judged + Send + Sync + 'static,
{
    let what = format!("target \"{}\"", target.name);
    move |error| CommandError::at(what.clone(), error)
}
