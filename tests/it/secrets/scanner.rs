//! Looks for marked texts in whatever form somebody may have written them.

use std::collections::HashSet;
use std::fmt;

use memchr::memmem;

/// What must not be found, by its name.
#[derive(Clone, Debug)]
pub struct Marker {
    pub what: &'static str,
    pub text: String,
}

/// Where a marked text was found, with what stands around it.
#[derive(Debug)]
pub struct Found {
    pub what: &'static str,
    form: &'static str,
    around: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) in: …{}…", self.what, self.form, self.around)
    }
}

/// A form of a marked text.
#[derive(Debug)]
struct Form {
    name: &'static str,
    text: String,
    /// Capital and small letters are not the same in it.
    exact: bool,
}

/// Every form of every marker.
#[derive(Debug)]
pub struct Scanner(Vec<(&'static str, Form)>);

impl Scanner {
    pub fn new(markers: &[Marker]) -> Self {
        let forms =
            |marker: &Marker| forms(&marker.text).into_iter().map(|form| (marker.what, form)).collect::<Vec<_>>();
        Self(markers.iter().flat_map(forms).collect())
    }

    /// The first place of each form of each marker.
    pub fn find(&self, text: &[u8]) -> Vec<Found> {
        let small = text.to_ascii_lowercase();
        let find = |(what, form): &(&'static str, Form)| {
            let at = match form.exact {
                true => memmem::find(text, form.text.as_bytes()),
                false => memmem::find(&small, form.text.to_ascii_lowercase().as_bytes()),
            }?;
            let around = &text[at.saturating_sub(160)..text.len().min(at + form.text.len() + 80)];
            Some(Found { what, form: form.name, around: String::from_utf8_lossy(around).into_owned() })
        };
        self.0.iter().filter_map(find).collect()
    }
}

/// The text as it is and as it may be written. Of base64 the part that is the same whatever stands before and after.
fn forms(text: &str) -> Vec<Form> {
    let json = |text: &str| serde_json::Value::from(text).to_string().trim_matches('"').to_owned();
    let percent = |all: bool| -> String {
        let plain = |byte: u8| !all && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        let written = |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
        text.bytes().map(written).collect()
    };
    let octal = |byte: u8| match byte {
        b'\\' => r"\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    };
    let mut forms: Vec<(&'static str, String, bool)> = vec![
        ("as it is", text.to_owned(), false),
        ("JSON", json(text), false),
        ("JSON in JSON", json(&json(text)), false),
        ("Debug", format!("{text:?}").trim_matches('"').to_owned(), false),
        ("percent-encoded", percent(false), false),
        ("percent-encoded throughout", percent(true), false),
        ("hex, and bytea's hex form", text.bytes().map(|byte| format!("{byte:02x}")).collect(), false),
        ("bytea's escape form", text.bytes().map(octal).collect(), false),
    ];
    for offset in 0..3 {
        let standard = base64(text, offset);
        let for_urls = standard.replace('+', "-").replace('/', "_");
        forms.extend([("base64", standard, true), ("base64 for URLs", for_urls, true)]);
    }
    // A text without anything special in it is the same in most of them.
    let mut seen = HashSet::new();
    forms.retain(|(_, text, exact)| seen.insert((text.clone(), *exact)));
    forms.into_iter().map(|(name, text, exact)| Form { name, text, exact }).collect()
}

/// The digits of base64 that hold nothing but this text, if so many bytes stand before it.
fn base64(text: &str, offset: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = |at: usize| -> usize {
        let bit = |place: usize| usize::from(text.as_bytes()[place / 8 - offset] >> (7 - place % 8) & 1);
        (at * 6..at * 6 + 6).fold(0, |digit, place| digit << 1 | bit(place))
    };
    let (from, to) = ((offset * 8).div_ceil(6), (offset + text.len()) * 8 / 6);
    (from..to).map(|at| char::from(DIGITS[bits(at)])).collect()
}

#[test]
fn a_planted_text_is_found_in_every_form() {
    let planted = "zq\"plan\\ted/ ü?>";
    let scanner = Scanner::new(&[Marker { what: "it", text: planted.to_owned() }]);
    let written = [
        ("as it is", planted.to_owned()),
        ("as it is", planted.to_uppercase().replace('Ü', "ü")),
        ("JSON", r#"{"a":"zq\"plan\\ted/ ü?>"}"#.to_owned()),
        ("JSON in JSON", r#"{"a":"{\"a\":\"zq\\\"plan\\\\ted/ ü?>\"}"}"#.to_owned()),
        // As Rust's Debug has it, too.
        ("JSON", format!("{:?}", Some(planted))),
        ("percent-encoded", "postgres://u:zq%22plan%5cted%2f%20%c3%bc%3f%3e@h".to_owned()),
        ("percent-encoded", "postgres://u:zq%22plan%5Cted%2F%20%C3%BC%3F%3E@h".to_owned()),
        ("percent-encoded throughout", "%7a%71%22%70%6c%61%6e%5c%74%65%64%2f%20%c3%bc%3f%3e".to_owned()),
        ("hex, and bytea's hex form", r"\x007a7122706c616e5c7465642f20c3bc3f3e00".to_owned()),
        ("hex, and bytea's hex form", "007A7122706C616E5C7465642F20C3BC3F3E00".to_owned()),
        ("bytea's escape form", r#"\000zq"plan\\ted/ \303\274?>\000"#.to_owned()),
        // Of ">", "a>" and "ab>" in front of it, and "!" behind.
        ("base64", "PnpxInBsYW5cdGVkLyDDvD8+IQ==".to_owned()),
        ("base64", "YT56cSJwbGFuXHRlZC8gw7w/PiE=".to_owned()),
        ("base64", "YWI+enEicGxhblx0ZWQvIMO8Pz4h".to_owned()),
        ("base64 for URLs", "YT56cSJwbGFuXHRlZC8gw7w_PiE".to_owned()),
    ];
    for (form, text) in written {
        let found = scanner.find(format!("before {text} behind").as_bytes());
        assert!(found.iter().any(|found| found.form == form), "{form} in {text}: {found:?}");
    }
    assert!(scanner.find(b"zq plan ted").is_empty());
}
