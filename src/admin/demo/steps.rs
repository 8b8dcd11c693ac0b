//! The transactions of the workload: pure; a generator of numbers goes in, one statement batch comes out.
//!
//! Keys come from small ranges, so that rows are updated, deleted and made anew under the same key all the time.

use crate::sql::Sql;

/// Key ranges, as `source.sql` fills them.
const ACCOUNTS: u64 = 3000;
const PRODUCTS: u64 = 500;
const DOCUMENTS: u64 = 400;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to, and without, `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }

    fn key(&mut self, range: u64) -> Sql {
        Sql::number(1 + self.below(range))
    }

    fn sku(&mut self) -> Sql {
        Sql::literal(&format!("sku-{}", 1 + self.below(PRODUCTS)))
    }
}

/// A transaction of the application.
pub struct Step {
    /// `BEGIN` to its end.
    pub sql: Sql,
    /// Whether it ends in COMMIT.
    pub commits: bool,
}

/// Each maker and how often it is taken, in parts of the sum.
type Maker = fn(&mut Random) -> Sql;
const MAKERS: &[(u64, Maker)] = &[
    (25, transfer),
    (15, order),
    (12, progress_order),
    (4, delete_orders),
    (6, open_account),
    (3, close_account),
    (6, settings),
    (5, document),
    (3, rewrite_document),
    (5, rename_product),
    (3, swap_products),
    (4, price),
    (6, readings),
    (3, change_readings),
    (4, cart),
    (3, half_rolled_back),
];

/// How many of a hundred transactions are rolled back by the application.
const ROLLED_BACK: u64 = 4;

/// The next transaction.
pub fn next(random: &mut Random) -> Step {
    let sum = MAKERS.iter().map(|(weight, _)| weight).sum();
    let mut at = random.below(sum);
    let mut body = transfer(random);
    for (weight, make) in MAKERS {
        if at < *weight {
            body = make(random);
            break;
        }
        at -= weight;
    }
    let commits = random.below(100) >= ROLLED_BACK;
    let end = if commits { Sql::new("COMMIT") } else { Sql::new("ROLLBACK") };
    Step { sql: Sql::format("BEGIN; {}; {}", &[&body, &end]), commits }
}

/// Empties two tables at once. It gives way to whoever reads them for long, such as the initial copy.
pub const TRUNCATE: Sql =
    Sql::new("BEGIN; SET LOCAL lock_timeout = '500ms'; TRUNCATE shop.carts, shop.readings RESTART IDENTITY; COMMIT");

/// The last transaction of all: where it has arrived, all others have.
pub const LAST: Sql = Sql::new("INSERT INTO shop.ledger VALUES (0, 0, 0, 0)");

/// Whether [`LAST`] has arrived.
pub const HAS_LAST: Sql = Sql::new("SELECT EXISTS (SELECT FROM shop.ledger WHERE entry = 0)");

fn transfer(random: &mut Random) -> Sql {
    let (one, other) = (random.below(ACCOUNTS) + 1, random.below(ACCOUNTS) + 1);
    // In the order of the keys: two transfers that cross do not wait for each other in a circle.
    let (payer, payee) = (Sql::number(one.min(other)), Sql::number(one.max(other)));
    let amount = Sql::number(random.below(100));
    Sql::format(
        "UPDATE shop.accounts SET balance = balance - {} WHERE id = {};
         UPDATE shop.accounts SET balance = balance + {} WHERE id = {};
         INSERT INTO shop.ledger VALUES (nextval('shop.entry'), {}, {}, {})",
        &[&amount, &payer, &amount, &payee, &payer, &payee, &amount],
    )
}

fn order(random: &mut Random) -> Sql {
    Sql::format(
        "INSERT INTO shop.orders (account_id, items)
         SELECT id, jsonb_build_array(jsonb_build_object('sku', {}, 'count', {})) FROM shop.accounts WHERE id = {}",
        &[&random.sku(), &random.key(9), &random.key(ACCOUNTS)],
    )
}

fn progress_order(random: &mut Random) -> Sql {
    Sql::format(
        "UPDATE shop.orders SET state = (CASE state WHEN 'open' THEN 'paid' WHEN 'paid' THEN 'shipped' ELSE 'returned'
             END)::shop.order_state WHERE id = (SELECT max(id) - {} FROM shop.orders)",
        &[&Sql::number(random.below(200))],
    )
}

fn delete_orders(_: &mut Random) -> Sql {
    Sql::new("DELETE FROM shop.orders WHERE id IN (SELECT id FROM shop.orders ORDER BY id LIMIT 3)")
}

fn open_account(random: &mut Random) -> Sql {
    let id = random.key(ACCOUNTS);
    Sql::format(
        "INSERT INTO shop.accounts (id, email) VALUES ({}, 'again' || {} || '@example.org') ON CONFLICT DO NOTHING",
        &[&id, &id],
    )
}

fn close_account(random: &mut Random) -> Sql {
    Sql::format("DELETE FROM shop.accounts WHERE id = {}", &[&random.key(ACCOUNTS)])
}

fn settings(random: &mut Random) -> Sql {
    Sql::format(
        "UPDATE shop.accounts SET settings = settings || jsonb_build_object('seen', {}) WHERE id = {}",
        &[&random.key(1_000_000), &random.key(ACCOUNTS)],
    )
}

/// The body stays as it is, and is therefore not sent.
fn document(random: &mut Random) -> Sql {
    Sql::format(
        "UPDATE shop.documents SET revision = revision + 1, title = title || '.' WHERE id = {}",
        &[&random.key(DOCUMENTS)],
    )
}

fn rewrite_document(random: &mut Random) -> Sql {
    let id = random.key(DOCUMENTS);
    Sql::format(
        "DELETE FROM shop.documents WHERE id = {};
         INSERT INTO shop.documents (id, title, body)
         SELECT {}, 'New', string_agg(md5(random()::text), '') FROM generate_series(1, {})
         ON CONFLICT DO NOTHING",
        &[&id, &id, &random.key(400)],
    )
}

fn rename_product(random: &mut Random) -> Sql {
    let new = random.sku();
    Sql::format(
        "UPDATE shop.products SET sku = {} WHERE sku = {} AND NOT EXISTS (SELECT FROM shop.products WHERE sku = {})",
        &[&new, &random.sku(), &new],
    )
}

fn swap_products(random: &mut Random) -> Sql {
    let (one, other) = (random.sku(), random.sku());
    Sql::format(
        "UPDATE shop.products SET sku = 'swap' WHERE sku = {}; UPDATE shop.products SET sku = {} WHERE sku = {};
         UPDATE shop.products SET sku = {} WHERE sku = 'swap'",
        &[&one, &one, &other, &other],
    )
}

fn price(random: &mut Random) -> Sql {
    Sql::format(
        "INSERT INTO shop.products (sku, net) VALUES ({}, {})
         ON CONFLICT (sku) DO UPDATE SET net = excluded.net, tags = '{}'",
        &[&random.sku(), &random.key(1000), &Sql::new("{changed,NULL}")],
    )
}

fn readings(random: &mut Random) -> Sql {
    let sensor = random.key(20);
    Sql::format(
        "INSERT INTO shop.readings VALUES ({}, {}, NULL), ({}, NULL, now()), ({}, NULL, now())",
        &[&sensor, &random.key(100), &sensor, &sensor],
    )
}

fn change_readings(random: &mut Random) -> Sql {
    Sql::format(
        "UPDATE shop.readings SET value = coalesce(value, 0) + 0.1
             WHERE ctid = (SELECT ctid FROM shop.readings OFFSET {} LIMIT 1);
         DELETE FROM shop.readings WHERE ctid = ANY (ARRAY(SELECT ctid FROM shop.readings LIMIT 2))",
        &[&Sql::number(random.below(50))],
    )
}

fn cart(random: &mut Random) -> Sql {
    Sql::format("INSERT INTO shop.carts (content) VALUES (jsonb_build_object('sku', {}))", &[&random.sku()])
}

fn half_rolled_back(random: &mut Random) -> Sql {
    let (kept, undone) = (transfer(random), close_account(random));
    Sql::format("{}; SAVEPOINT half; {}; ROLLBACK TO half; {}", &[&kept, &undone, &cart(random)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_transaction_comes_up_and_some_are_rolled_back() {
        let mut random = Random::new(7);
        let steps: Vec<Step> = (0..2000).map(|_| next(&mut random)).collect();
        for kind in ["ledger", "SAVEPOINT", "DELETE FROM shop.accounts", "'swap'", "ctid", "jsonb_build_array"] {
            assert!(steps.iter().any(|step| step.sql.as_str().contains(kind)), "{kind}");
        }
        let rolled_back = steps.iter().filter(|step| !step.commits).count();
        assert!((20..200).contains(&rolled_back), "{rolled_back}");
        assert!(steps.iter().all(|step| step.sql.as_str().ends_with("; COMMIT") == step.commits));
    }

    #[test]
    fn equal_seeds_give_equal_workloads() {
        let text = |seed| next(&mut Random::new(seed)).sql.to_string();
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }
}
