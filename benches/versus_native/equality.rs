//! Whether a target holds what the source holds: for each published table the number of rows, and a sum over hashes of
//! whole rows, which does not depend on their order.

use anyhow::{Result, ensure};

use crate::bed::{Bed, SOURCE};
use crate::database::Database;

/// An error that names the first table in which this target database differs.
pub async fn verify(bed: &Bed, database: &str) -> Result<()> {
    let source = Database::connect(&bed.source, SOURCE).await?;
    let target = Database::connect(&bed.target, database).await?;
    let tables = "SELECT DISTINCT format('%I.%I', schemaname, tablename) FROM pg_publication_tables ORDER BY 1";
    for table in source.column::<String>(tables, &[]).await? {
        let sum = format!(
            "SELECT count(*) || ' rows, sum of hashes ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) \
             FROM {table} AS t"
        );
        let (there, here) = tokio::try_join!(source.value::<String>(&sum, &[]), target.value::<String>(&sum, &[]))?;
        ensure!(there == here, "{table} differs: the source has {there}, {database} has {here}");
    }
    Ok(())
}
