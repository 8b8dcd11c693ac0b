//! What is planted, and what may be found of it where.

use super::scanner::Marker;

/// Each secret begins with it, unless it is one of those below.
pub const SECRET: &str = "zqsecret";

/// The source's password has all that a connection string must write in another way.
pub const SOURCE_PASSWORD: &str = r#"zqsecret"so\urce %@/:1"#;
pub const TARGET_PASSWORD: &str = r"zqsecret:target\1";
pub const ROTATED_PASSWORD: &str = "zqsecretrotated";
pub const TOKEN: &str = "zqsecrettoken-of-some-length";

/// It is given in the environment, and must be nowhere else.
pub const PASSWORD_IN_ENVIRONMENT: &str = "zqenviron/1";

/// Each row's value begins with it.
pub const VALUE: &str = "zqvalue";
pub const AWKWARD_VALUE: &str = r#"zqvalue"wert" \é/+"#;

/// Each number begins with it.
pub const NUMBER: &str = "731904552";

/// Each key of a row that nothing happens to.
pub const KEY: &str = "zqkey";

/// Each key of a row that is refused, or in conflict: that is how it is named.
pub const NAMED_KEY: &str = "zqnamed";

/// What everybody may know: each table that is looked for has a name that begins with it.
pub const PUBLIC: &str = "zqpublic";

/// Of the marker by whose name a row that is refused may be told.
pub const A_NAMED_KEY: &str = "the key of a row that is refused";
/// Of what the daemon's environment may hold.
pub const A_SECRET_IN_ENVIRONMENT: &str = "the password in the environment";

/// All that must not be found. `private_key`: a TLS client's, in PEM.
pub fn all(private_key: &str) -> Vec<Marker> {
    let line = private_key.lines().nth(1).expect("PEM has lines").to_owned();
    let markers = [
        ("a secret", SECRET),
        ("the source's password", SOURCE_PASSWORD),
        ("the target's password", TARGET_PASSWORD),
        ("the client's private key", &line),
        (A_SECRET_IN_ENVIRONMENT, PASSWORD_IN_ENVIRONMENT),
        (A_SECRET_IN_ENVIRONMENT, "zqenviron"),
        ("a row's value", VALUE),
        ("a row's value with quotes", AWKWARD_VALUE),
        ("a row's number", NUMBER),
        ("a row's key", KEY),
        (A_NAMED_KEY, NAMED_KEY),
    ];
    markers.map(|(what, text)| Marker { what, text: text.to_owned() }).into()
}
