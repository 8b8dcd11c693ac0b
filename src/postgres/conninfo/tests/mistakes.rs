//! Connection strings with a marked password and a mistake anywhere in them: whatever comes of one, the mark is not
//! shown.

use proptest::prelude::*;
use proptest::sample::Index;

use super::{all_output, ann};

/// It stands twice in each password, so that a mistake in one of them leaves the other.
const MARK: &str = "SECRET";

/// What a hand that slips does to a text, at a place in it.
#[derive(Clone, Debug)]
enum Slip {
    Leaves,
    Adds(char),
    Hits(char),
    Doubles,
    Swaps,
    StopsHere,
    BeginsHere,
}

fn slip() -> impl Strategy<Value = (Slip, Index)> {
    let character = || r"[@:/?#%&= '\\,\[\]\na-z0-9]".prop_map(|text: String| text.chars().next().unwrap());
    let slip = prop_oneof![
        4 => Just(Slip::Leaves),
        3 => character().prop_map(Slip::Adds),
        3 => character().prop_map(Slip::Hits),
        1 => Just(Slip::Doubles),
        1 => Just(Slip::Swaps),
        1 => Just(Slip::StopsHere),
        1 => Just(Slip::BeginsHere),
    ];
    (slip, any::<Index>())
}

/// The text with the mistake (more of them can make another string without any of it), unless that would make the
/// password a part of the user's name: nothing tells the two apart then.
fn slipped(text: &str, (slip, place): &(Slip, Index)) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    if characters.is_empty() {
        return String::new();
    }
    let at = place.index(characters.len());
    match slip {
        Slip::Leaves => drop(characters.remove(at)),
        Slip::Adds(character) => characters.insert(at, *character),
        Slip::Hits(character) => characters[at] = *character,
        Slip::Doubles => characters.insert(at, characters[at]),
        Slip::Swaps => characters.swap(at, (at + 1) % text.chars().count()),
        Slip::StopsHere => characters.truncate(at),
        Slip::BeginsHere => drop(characters.drain(..at)),
    }
    let changed: String = characters.into_iter().collect();
    match names_the_user(text) && !names_the_user(&changed) {
        true => text.to_owned(),
        false => changed,
    }
}

/// Whether a URL's user is told from its password.
fn names_the_user(text: &str) -> bool {
    text.contains("://ferry:")
}

/// In each form of connection string.
fn written(form: usize, secret: &str, order: &[usize]) -> String {
    let encoded = super::encoded(secret);
    let pairs = [
        "host=db.example".to_owned(),
        "port=5432".to_owned(),
        "dbname=shop".to_owned(),
        "user=ferry".to_owned(),
        "sslmode=require".to_owned(),
        "connect_timeout=5".to_owned(),
        match form % 2 {
            0 => format!("password={}", secret.replace(['\\', '\'', ' '], "")),
            _ => format!("password={}", super::quoted(secret)),
        },
    ];
    let pairs = order.iter().map(|at| pairs[*at].as_str()).collect::<Vec<_>>();
    match form {
        0 | 1 => pairs.join(" "),
        2 => format!("postgresql://ferry:{encoded}@db.example:5432/shop?sslmode=require"),
        3 => format!("postgres://ferry:{encoded}@a:1,b:2/shop?sslmode=require&connect_timeout=5"),
        4 => format!("postgresql://ferry@db.example/shop?password={encoded}&sslmode=require"),
        _ => format!("postgresql://db.example/shop?user=ferry&sslpassword={encoded}&application_name=x"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn a_mistake_in_a_connection_string_does_not_show_its_password(
        middle in r"[a-zA-Z0-9@:/?#%&= '\\,.\[\]]{0,6}",
        form in 0..6usize,
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
        slip in slip(),
    ) {
        let right = written(form, &format!("{MARK}{middle}{MARK}"), &order);
        let text = slipped(&right, &slip);
        let shown = all_output(&text, &ann());
        prop_assert!(!shown.contains(MARK), "{}: {}", text, shown);
        prop_assert!(!shown.contains(&super::encoded(MARK)), "{}: {}", text, shown);
    }
}
