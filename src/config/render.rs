//! The resolved configuration as text: TOML or JSON, in the words that the file takes, secrets hidden.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serializer;

use super::Config;

impl Config {
    /// As TOML, every key with the value in force. Secrets are hidden, so the URLs have to be filled in again.
    pub fn render_toml(&self) -> String {
        toml::to_string(self).expect("every field is a string, a number, or a list of them")
    }

    /// As one JSON object of the same shape.
    pub fn render_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("every field is a string, a number, or a list of them")
    }
}

/// As the file takes it: `30s`, `1m 30s`.
pub(super) fn show_duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

/// As the file takes it, exactly: in the largest binary unit that divides it, `8MiB`, `1025B`.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = units.into_iter().find(|(bits, _)| bytes != 0 && bytes.is_multiple_of(1 << bits));
    exact.map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_duration(*value))
}

pub(super) fn optional_duration<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration(&value.unwrap_or_default(), serializer)
}

pub(super) fn size<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show_size(*bytes))
}

pub(super) fn address<S: Serializer>(value: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.map(|address| address.to_string()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_back_as_the_same() {
        for bytes in [0, 1, 1023, 1024, 1025, 8 << 20, (8 << 20) + 1, 64_000_000, 1 << 30, u64::MAX] {
            assert_eq!(show_size(bytes).parse::<bytesize::ByteSize>().unwrap().0, bytes);
        }
        for millis in [0, 1, 500, 30_000, 90_000, 86_400_001] {
            let value = Duration::from_millis(millis);
            assert_eq!(humantime::parse_duration(&show_duration(value)).unwrap(), value);
        }
        assert_eq!(show_size(256 << 20), "256MiB");
    }
}
