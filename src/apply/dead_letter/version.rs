//! Whether the rows of a key are still as they were when a letter was written. Pure.
//!
//! A row's version is `xmin:file:hash`: the transaction that wrote it, the file that it is in, and a number made of its
//! text. As long as it is in the same file, any write of it gives it another `xmin` (documentation: "System Columns");
//! changes of one target transaction too, as each stretch of them runs under a savepoint, whose writes have an id of
//! their own. Whoever mends the target may have its table rewritten, by another type of a column or by VACUUM FULL:
//! then every row may be in another file under another `xmin`, and its text decides.

/// Whether rows of these versions are now those of the others. No rows: `None`.
pub(super) fn as_they_were(then: Option<&str>, now: Option<&str>) -> bool {
    let (Some(then), Some(now)) = (then, now) else { return then.is_none() && now.is_none() };
    let (then, now) = (parts(then), parts(now));
    let same_file = then.iter().any(|(_, file, _)| now.iter().any(|(_, other, _)| file == other));
    let told = |versions: &[(String, String, String)]| {
        let mut told: Vec<String> =
            versions.iter().map(|(xmin, _, hash)| if same_file { xmin.clone() } else { hash.clone() }).collect();
        told.sort();
        told
    };
    told(&then) == told(&now)
}

fn parts(versions: &str) -> Vec<(String, String, String)> {
    let part = |version: &str| {
        let mut parts = version.splitn(3, ':').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    };
    versions.split(',').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_as_it_was_by_who_wrote_it_or_in_a_table_written_anew_by_its_text() {
        let same = |then: &str, now: &str| as_they_were(Some(then), Some(now));
        assert!(same("7:100:-5", "7:100:-5"));
        assert!(!same("7:100:-5", "8:100:-5"), "written again with the same text");
        assert!(same("7:100:-5", "7:100:6"), "a column was added");
        assert!(same("7:100:-5", "9:200:-5"), "the table was rewritten");
        assert!(!same("7:100:-5", "9:200:6"), "and the row is another");
        assert!(same("7:100:1,8:101:2", "8:101:2,7:100:1"));
        assert!(!same("7:100:1,8:100:2", "7:100:1"));
        assert!(as_they_were(None, None));
        assert!(!as_they_were(None, Some("7:100:1")) && !as_they_were(Some("7:100:1"), None));
    }
}
