//! Which values may travel as their type's send function gives them, from any server to any other. Pure.
//!
//! In: a type's OID, as either server's catalogue has it. Out: whether its receive function on the other server makes
//! of the bytes what its input function would have made of the text.
//!
//! # What makes a type portable
//! - *The OID means the same type on both servers.* OIDs below 10,000 are assigned by hand in PostgreSQL's source and
//!   are the same in every cluster; above they are drawn by initdb or by the server (`FirstGenbkiObjectId` and
//!   `FirstNormalObjectId` in access/transam.h). So enums, composites and types of extensions are never portable, and
//!   nor is an array of them, whose bytes name the element's OID. A domain travels as its base type does
//!   (`DefineDomain` gives it that type's send function, and `domain_recv` calls that type's receive function, then
//!   checks the domain); who uses this looks below domains first. An array of a domain names the domain's OID.
//! - *The bytes have not changed from PostgreSQL 14 to 18*, and hold no OIDs but built-in ones.
//! - *They mean what the text means.* Receive functions check what they are given, and apply the column's type
//!   modifier, as input functions do: numeric rounds, varchar refuses, timestamp(3) rounds. Text inside of values is
//!   converted from and to `client_encoding`, which every session pins. Floats are exact in binary, and shortest-exact
//!   in text (`extra_float_digits` is pinned).
//!
//! `tests/it/types/binary.rs` sends each of these types through servers of all versions in both ways and compares.
//!
//! # What is left out, and why
//! - `interval`: the largest one is finite before 17 and means infinity from 17 on; only text tells them apart.
//! - `regclass` and its like: an OID in binary, a name in text.
//! - `money`: an integer, whose fraction `lc_monetary` decides.
//! - `name`: the input function cuts what is too long in the other encoding, the receive function refuses it.
//! - `xml`: the declaration's encoding follows the session's.
//! - `int2vector`, `oidvector`: an empty one is sent and not received.
//! - `aclitem`: has no such functions. `tsquery`, snapshots, `refcursor`: in no column that would pay for the proof.

use std::ops::Range;

use postgres_types::{FromSql, Type};

/// Each with its array.
const PORTABLE: &[(Type, Type)] = &[
    (Type::BOOL, Type::BOOL_ARRAY),
    (Type::BYTEA, Type::BYTEA_ARRAY),
    (Type::CHAR, Type::CHAR_ARRAY),
    (Type::INT8, Type::INT8_ARRAY),
    (Type::INT2, Type::INT2_ARRAY),
    (Type::INT4, Type::INT4_ARRAY),
    (Type::TEXT, Type::TEXT_ARRAY),
    (Type::OID, Type::OID_ARRAY),
    (Type::TID, Type::TID_ARRAY),
    (Type::XID, Type::XID_ARRAY),
    (Type::CID, Type::CID_ARRAY),
    (Type::XID8, Type::XID8_ARRAY),
    (Type::PG_LSN, Type::PG_LSN_ARRAY),
    (Type::JSON, Type::JSON_ARRAY),
    (Type::JSONB, Type::JSONB_ARRAY),
    (Type::JSONPATH, Type::JSONPATH_ARRAY),
    (Type::POINT, Type::POINT_ARRAY),
    (Type::LSEG, Type::LSEG_ARRAY),
    (Type::PATH, Type::PATH_ARRAY),
    (Type::BOX, Type::BOX_ARRAY),
    (Type::POLYGON, Type::POLYGON_ARRAY),
    (Type::LINE, Type::LINE_ARRAY),
    (Type::CIRCLE, Type::CIRCLE_ARRAY),
    (Type::FLOAT4, Type::FLOAT4_ARRAY),
    (Type::FLOAT8, Type::FLOAT8_ARRAY),
    (Type::NUMERIC, Type::NUMERIC_ARRAY),
    (Type::MACADDR, Type::MACADDR_ARRAY),
    (Type::MACADDR8, Type::MACADDR8_ARRAY),
    (Type::INET, Type::INET_ARRAY),
    (Type::CIDR, Type::CIDR_ARRAY),
    (Type::BPCHAR, Type::BPCHAR_ARRAY),
    (Type::VARCHAR, Type::VARCHAR_ARRAY),
    (Type::DATE, Type::DATE_ARRAY),
    (Type::TIME, Type::TIME_ARRAY),
    (Type::TIMETZ, Type::TIMETZ_ARRAY),
    (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
    (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
    (Type::BIT, Type::BIT_ARRAY),
    (Type::VARBIT, Type::VARBIT_ARRAY),
    (Type::UUID, Type::UUID_ARRAY),
    (Type::TS_VECTOR, Type::TS_VECTOR_ARRAY),
    (Type::INT4_RANGE, Type::INT4_RANGE_ARRAY),
    (Type::INT8_RANGE, Type::INT8_RANGE_ARRAY),
    (Type::NUM_RANGE, Type::NUM_RANGE_ARRAY),
    (Type::TS_RANGE, Type::TS_RANGE_ARRAY),
    (Type::TSTZ_RANGE, Type::TSTZ_RANGE_ARRAY),
    (Type::DATE_RANGE, Type::DATE_RANGE_ARRAY),
    (Type::INT4MULTI_RANGE, Type::INT4MULTI_RANGE_ARRAY),
    (Type::INT8MULTI_RANGE, Type::INT8MULTI_RANGE_ARRAY),
    (Type::NUMMULTI_RANGE, Type::NUMMULTI_RANGE_ARRAY),
    (Type::TSMULTI_RANGE, Type::TSMULTI_RANGE_ARRAY),
    (Type::TSTZMULTI_RANGE, Type::TSTZMULTI_RANGE_ARRAY),
    (Type::DATEMULTI_RANGE, Type::DATEMULTI_RANGE_ARRAY),
];

/// Whether a value of this type may be sent in binary from any server for which this is proven to any other.
pub fn is_portable(type_oid: u32) -> bool {
    PORTABLE.iter().any(|(scalar, array)| [scalar.oid(), array.oid()].contains(&type_oid))
}

/// The array type of a portable type that is no array.
pub fn array_of(type_oid: u32) -> Option<u32> {
    PORTABLE.iter().find(|(scalar, _)| scalar.oid() == type_oid).map(|(_, array)| array.oid())
}

/// The element type of a portable array type.
pub fn element_of(type_oid: u32) -> Option<u32> {
    PORTABLE.iter().find(|(_, array)| array.oid() == type_oid).map(|(scalar, _)| scalar.oid())
}

/// A value as people write it, where it is of a type that keys are of: the integers, text, uuid. For messages.
pub fn shown(type_oid: u32, bytes: &[u8]) -> Option<String> {
    fn read<'a, T: FromSql<'a> + ToString>(type_: &Type, bytes: &'a [u8]) -> Option<String> {
        T::from_sql(type_, bytes).ok().map(|value| value.to_string())
    }
    let type_ = Type::from_oid(type_oid)?;
    match type_ {
        Type::INT2 => read::<i16>(&type_, bytes),
        Type::INT4 => read::<i32>(&type_, bytes),
        Type::INT8 => read::<i64>(&type_, bytes),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR => read::<&str>(&type_, bytes),
        Type::UUID if bytes.len() == 16 => {
            let part = |range: Range<usize>| bytes[range].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            Some([part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)].join("-"))
        }
        _ => None,
    }
}

/// Whether all this is proven for servers of this `server_version_num`.
pub fn is_proven(server_version: u32) -> bool {
    (140_000..190_000).contains(&server_version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_is_built_in_and_listed_once() {
        let oids: Vec<u32> = PORTABLE.iter().flat_map(|(scalar, array)| [scalar.oid(), array.oid()]).collect();
        assert!(oids.iter().all(|oid| *oid < 10_000));
        assert_eq!(oids.iter().collect::<BTreeSet<_>>().len(), oids.len());
    }

    #[test]
    fn an_array_is_that_of_its_element() {
        for (scalar, array) in PORTABLE {
            assert_eq!(*array.kind(), postgres_types::Kind::Array(scalar.clone()));
            assert_eq!(array_of(scalar.oid()), Some(array.oid()));
            assert_eq!(element_of(array.oid()), Some(scalar.oid()));
            assert!(is_portable(scalar.oid()) && is_portable(array.oid()));
        }
        assert_eq!((array_of(Type::INT4_ARRAY.oid()), element_of(Type::INT4.oid())), (None, None));
    }

    #[test]
    fn values_of_keys_are_shown_as_people_write_them() {
        assert_eq!(shown(Type::INT8.oid(), &(-5i64).to_be_bytes()).unwrap(), "-5");
        assert_eq!(shown(Type::INT2.oid(), &[1, 0]).unwrap(), "256");
        assert_eq!(shown(Type::TEXT.oid(), "é".as_bytes()).unwrap(), "é");
        let uuid: Vec<u8> = (0..16).collect();
        assert_eq!(shown(Type::UUID.oid(), &uuid).unwrap(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!((shown(Type::INT4.oid(), &[1]), shown(Type::NUMERIC.oid(), &[0; 8])), (None, None));
    }

    #[test]
    fn what_means_another_thing_elsewhere_is_not_portable() {
        let elsewhere = [
            Type::INTERVAL,
            Type::INTERVAL_ARRAY,
            Type::REGCLASS,
            Type::REGTYPE,
            Type::MONEY,
            Type::NAME,
            Type::XML,
            Type::INT2_VECTOR,
            Type::OID_VECTOR,
            Type::ACLITEM,
            Type::RECORD,
        ];
        assert!(elsewhere.iter().all(|one| !is_portable(one.oid())), "{elsewhere:?}");
        assert!(!is_portable(16_384) && !is_portable(0));
        assert!(is_proven(140_000) && is_proven(180_004) && !is_proven(130_020) && !is_proven(190_000));
    }
}
