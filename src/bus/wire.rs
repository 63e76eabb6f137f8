//! The one place where values cross between the bus and the model.
//!
//! Whatever a caller sends is either turned into a [`Value`] or refused with the key's name:
//! nothing is dropped, nothing panics, and nesting is bounded. Every integer type is welcome
//! (`y` to `x`), and variants within variants count as what they hold.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zbus::wire::{Array, Dict as WireDict, ObjectPath, OwnedVariant, Signature, Str, Type, Variant};

use crate::model::{Error, Map, Result, Value};

/// Deeper than any map the interface knows, far less than what a stack holds.
const MAX_DEPTH: usize = 16;

/// An `a{sv}` as it crosses the bus.
#[derive(Debug, Default, Serialize, Deserialize, Type)]
#[serde(transparent)]
pub struct Dict(HashMap<String, OwnedVariant>);

impl Dict {
    /// The map a caller sent, in the model's terms.
    pub fn read(self) -> Result<Map> {
        self.0.iter().map(|(key, value)| Ok((key.clone(), from_variant(key, value, 0)?))).collect()
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether a key holds this text.
    pub fn has_text(&self, key: &str, text: &str) -> bool {
        self.0.get(key).is_some_and(|v| matches!(from_variant(key, v, 0), Ok(Value::Str(s)) if s == text))
    }

    /// A map of the model, ready to be sent.
    pub fn write(map: &Map) -> Result<Self> {
        map.iter()
            .map(|(key, value)| {
                let variant = to_variant(value).and_then(|v| v.try_into_owned());
                Ok((text(key).into_owned(), variant.map_err(|e| Error::failed(format!("cannot send {key}: {e}")))?))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// A list of maps, ready to be sent.
    pub fn write_all(maps: &[Map]) -> Result<Vec<Self>> {
        maps.iter().map(Self::write).collect()
    }
}

fn from_variant(key: &str, variant: &Variant<'_>, depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("{key} is nested deeper than {MAX_DEPTH} levels; send a flatter value")));
    }
    Ok(match variant {
        Variant::U8(n) => Value::Uint(u64::from(*n)),
        Variant::U16(n) => Value::Uint(u64::from(*n)),
        Variant::U32(n) => Value::Uint(u64::from(*n)),
        Variant::U64(n) => Value::Uint(*n),
        Variant::I16(n) => Value::Int(i64::from(*n)),
        Variant::I32(n) => Value::Int(i64::from(*n)),
        Variant::I64(n) => Value::Int(*n),
        Variant::Bool(b) => Value::Bool(*b),
        Variant::F64(d) => Value::Double(*d),
        Variant::Str(s) => Value::Str(s.as_str().to_owned()),
        Variant::Signature(s) => Value::Str(s.to_string()),
        Variant::ObjectPath(p) => Value::Path(p.as_str().to_owned()),
        Variant::Variant(inner) => from_variant(key, inner, depth + 1)?,
        Variant::Array(array) => from_array(key, array, depth)?,
        Variant::Dict(dict) => Value::Map(from_dict(key, dict, depth)?),
        Variant::Fd(fd) => Value::Fd(Arc::new(own(key, fd.as_fd())?)),
        Variant::Structure(_) => {
            return Err(Error::invalid(format!("{key} is a structure; send a map (a{{sv}}) or an array")));
        }
    })
}

fn own(key: &str, fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| Error::io(format!("cannot take the file descriptor {key}"), &e))
}

fn from_array(key: &str, array: &Array<'_>, depth: usize) -> Result<Value> {
    match array.element_signature() {
        Signature::U8 => {
            let bytes = array.inner().iter().filter_map(|v| if let Variant::U8(b) = v { Some(*b) } else { None });
            Ok(Value::Bytes(bytes.collect()))
        }
        Signature::Dict { .. } => array
            .inner()
            .iter()
            .map(|v| match v {
                Variant::Dict(dict) => from_dict(key, dict, depth + 1),
                _ => Err(Error::invalid(format!("{key} is an array of unlike elements; send maps (aa{{sv}})"))),
            })
            .collect::<Result<_>>()
            .map(Value::Maps),
        _ => array.inner().iter().map(|v| from_variant(key, v, depth + 1)).collect::<Result<_>>().map(Value::List),
    }
}

fn from_dict(key: &str, dict: &WireDict<'_, '_>, depth: usize) -> Result<Map> {
    dict.iter()
        .map(|(k, v)| match k {
            Variant::Str(k) => Ok((k.as_str().to_owned(), from_variant(key, v, depth + 1)?)),
            _ => Err(Error::invalid(format!("{key} is a map whose keys are not strings; send a{{sv}}"))),
        })
        .collect()
}

/// Text that the bus carries: a NUL character, which it cannot, is replaced.
fn text(s: &str) -> std::borrow::Cow<'_, str> {
    if s.contains('\0') { s.replace('\0', "\u{fffd}").into() } else { s.into() }
}

fn string(s: &str) -> Variant<'static> {
    Variant::Str(Str::from(text(s).into_owned()))
}

fn path(s: &str) -> Variant<'static> {
    // A path that is none is the sender's mistake; text tells more than a lost reply.
    ObjectPath::try_from(s.to_owned()).map_or_else(|_| string(s), Variant::ObjectPath)
}

fn array(
    element: &Signature,
    items: impl Iterator<Item = zbus::Result<Variant<'static>>>,
) -> zbus::Result<Variant<'static>> {
    let mut array = Array::new(element);
    for item in items {
        array.append(item?)?;
    }
    Ok(Variant::Array(array))
}

fn bytes(b: &[u8]) -> zbus::Result<Variant<'static>> {
    array(&Signature::U8, b.iter().map(|b| Ok(Variant::U8(*b))))
}

fn map(map: &Map) -> zbus::Result<Variant<'static>> {
    let mut dict = WireDict::new(&Signature::Str, &Signature::Variant);
    for (key, value) in map {
        dict.append(string(key), Variant::Variant(Box::new(to_variant(value)?)))?;
    }
    Ok(Variant::Dict(dict))
}

fn maps<'a>(list: impl Iterator<Item = &'a Map>) -> zbus::Result<Variant<'static>> {
    array(&Signature::dict(Signature::Str, Signature::Variant), list.map(map))
}

fn list(list: &[Value]) -> zbus::Result<Variant<'static>> {
    let all = |is: fn(&Value) -> bool| list.iter().all(is);
    if all(|v| matches!(v, Value::Str(_))) {
        array(&Signature::Str, list.iter().map(to_variant))
    } else if all(|v| matches!(v, Value::Map(_))) {
        maps(list.iter().filter_map(|v| if let Value::Map(m) = v { Some(m) } else { None }))
    } else if all(|v| matches!(v, Value::Bytes(_))) {
        array(&Signature::array(Signature::U8), list.iter().map(to_variant))
    } else {
        array(&Signature::Variant, list.iter().map(|v| Ok(Variant::Variant(Box::new(to_variant(v)?)))))
    }
}

fn to_variant(value: &Value) -> zbus::Result<Variant<'static>> {
    Ok(match value {
        Value::Bool(b) => Variant::Bool(*b),
        Value::Int(i) => Variant::I64(*i),
        Value::Uint(u) => Variant::U64(*u),
        Value::Uint32(u) => Variant::U32(*u),
        Value::Int32(i) => Variant::I32(*i),
        Value::Double(d) => Variant::F64(*d),
        Value::Str(s) => string(s),
        Value::Path(p) => path(p),
        Value::Bytes(b) => bytes(b)?,
        Value::List(l) => list(l)?,
        Value::Maps(l) => maps(l.iter())?,
        Value::Map(m) => map(m)?,
        Value::Fd(fd) => Variant::Fd(fd.try_clone()?.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;
    use zbus::wire::{LE, serialized::Context, to_bytes};

    use super::*;

    /// Through the very bytes that would go over the socket.
    fn over_the_wire(map: &Map) -> Map {
        let bytes = to_bytes(Context::new(LE, 0), &Dict::write(map).unwrap()).unwrap();
        let (back, _): (Dict, usize) = bytes.deserialize().unwrap();
        back.read().unwrap()
    }

    fn send(variant: Variant<'static>) -> Result<Value> {
        let dict = Dict(HashMap::from([("key".to_owned(), variant.try_into_owned().unwrap())]));
        let bytes = to_bytes(Context::new(LE, 0), &dict).unwrap();
        let (back, _): (Dict, usize) = bytes.deserialize().unwrap();
        back.read().map(|mut m| m.remove("key").unwrap())
    }

    /// What a value is known as once it has crossed.
    fn crossed(value: &Value) -> Value {
        match value {
            Value::Int32(i) => Value::Int(i64::from(*i)),
            Value::Uint32(u) => Value::Uint(u64::from(*u)),
            Value::List(l) if !l.is_empty() && l.iter().all(|v| matches!(v, Value::Map(_))) => Value::Maps(
                l.iter().filter_map(|v| if let Value::Map(m) = crossed(v) { Some(m) } else { None }).collect(),
            ),
            Value::List(l) => Value::List(l.iter().map(crossed).collect()),
            Value::Maps(l) => Value::Maps(l.iter().map(crossed_map).collect()),
            Value::Map(m) => Value::Map(crossed_map(m)),
            other => other.clone(),
        }
    }

    fn crossed_map(map: &Map) -> Map {
        map.iter().map(|(k, v)| (k.clone(), crossed(v))).collect()
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<u64>().prop_map(Value::Uint),
            any::<u32>().prop_map(Value::Uint32),
            any::<i32>().prop_map(Value::Int32),
            (-1e300f64..1e300).prop_map(Value::Double),
            "[^\0]{0,12}".prop_map(Value::Str),
            "(/[a-z0-9_]{1,5}){1,4}".prop_map(Value::Path),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let map = proptest::collection::btree_map("[a-z_]{1,8}", inner.clone(), 0..5);
            prop_oneof![
                map.clone().prop_map(Value::Map),
                proptest::collection::vec(map, 0..4).prop_map(Value::Maps),
                proptest::collection::vec(inner, 0..5).prop_map(Value::List),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_map_crosses_unchanged(map in proptest::collection::btree_map("[a-z_]{1,8}", value(), 0..6)) {
            prop_assert_eq!(format!("{:?}", over_the_wire(&map)), format!("{:?}", crossed_map(&map)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let data = zbus::wire::serialized::Data::new(bytes, Context::new(LE, 0));
            if let Ok((dict, _)) = data.deserialize::<Dict>() {
                let _ = dict.read();
            }
        }
    }

    #[test]
    fn every_integer_type_is_an_integer() {
        for variant in [Variant::U8(7), Variant::U16(7), Variant::U32(7), Variant::U64(7)] {
            assert!(matches!(send(variant), Ok(Value::Uint(7))));
        }
        for variant in [Variant::I16(-7), Variant::I32(-7), Variant::I64(-7)] {
            assert!(matches!(send(variant), Ok(Value::Int(-7))));
        }
    }

    #[test]
    fn lists_go_out_as_the_contract_says() {
        let signature = |v: Value| to_variant(&v).unwrap().value_signature().to_string();
        assert_eq!(signature(Value::List(vec![])), "as");
        assert_eq!(signature(Value::from(vec!["a".to_owned()])), "as");
        assert_eq!(signature(Value::Maps(vec![])), "aa{sv}");
        assert_eq!(signature(Value::List(vec![Value::Map(Map::new())])), "aa{sv}");
        assert_eq!(signature(Value::List(vec![Value::Bytes(vec![255])])), "aay");
        assert_eq!(signature(Value::List(vec![Value::Uint(1), Value::from("a")])), "av");
        assert_eq!(signature(Value::Bytes(vec![])), "ay");
    }

    #[test]
    fn paths_that_are_not_utf8_arrive_as_bytes() {
        let aay = array(&Signature::array(Signature::U8), [bytes(b"/tmp/\xff"), bytes(b"")].into_iter()).unwrap();
        let Ok(Value::List(list)) = send(aay) else { panic!("no list") };
        assert!(matches!(&list[0], Value::Bytes(b) if b == b"/tmp/\xff"));
        assert!(matches!(&list[1], Value::Bytes(b) if b.is_empty()));
    }

    #[test]
    fn variants_in_variants_count_as_what_they_hold() {
        let nested = Variant::Variant(Box::new(Variant::Variant(Box::new(Variant::Bool(true)))));
        assert!(matches!(send(nested), Ok(Value::Bool(true))));
    }

    #[test]
    fn a_file_descriptor_arrives_open() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let map = Map::from([("fd".to_owned(), Value::Fd(Arc::new(writer.into())))]);
        let back = over_the_wire(&map).remove("fd").unwrap();
        drop(map);
        let Value::Fd(fd) = back else { panic!("no file descriptor") };
        let mut file = std::fs::File::from(Arc::into_inner(fd).unwrap());
        file.write_all(b"through").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn too_deep_or_too_odd_is_refused_by_name() {
        let mut deep = Variant::Bool(true);
        for _ in 0..20 {
            deep = Variant::Variant(Box::new(deep));
        }
        let error = send(deep).unwrap_err();
        assert!(error.message.contains("key is nested deeper"), "{error}");

        let structure = Variant::from((1u32, "a"));
        assert!(send(structure).unwrap_err().message.contains("key is a structure"));

        let mut odd = WireDict::new(&Signature::U32, &Signature::Str);
        odd.append(Variant::U32(1), string("a")).unwrap();
        assert!(send(Variant::Dict(odd)).unwrap_err().message.contains("keys are not strings"));
    }

    #[test]
    fn what_the_bus_cannot_carry_is_made_carryable() {
        let map = Map::from([
            ("text".to_owned(), Value::from("a\0b")),
            ("path".to_owned(), Value::Path("not a path".to_owned())),
        ]);
        let back = over_the_wire(&map);
        assert!(matches!(&back["text"], Value::Str(s) if s == "a\u{fffd}b"));
        assert!(matches!(&back["path"], Value::Str(s) if s == "not a path"));
    }
}
