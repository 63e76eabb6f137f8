//! Values as they cross the bus and stand in JSON, free of any wire library.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The map that every method takes and every object is: snake_case keys.
pub type Map = BTreeMap<String, Value>;

/// One value.
#[derive(Debug, Clone)]
pub enum Value {
    /// D-Bus `b`.
    Bool(bool),
    /// Any signed integer that came in; `i`, `x` going out as `x`.
    Int(i64),
    /// Any unsigned integer; goes out as `t`.
    Uint(u64),
    /// Goes out as `u`.
    Uint32(u32),
    /// Goes out as `i`.
    Int32(i32),
    /// D-Bus `d`.
    Double(f64),
    /// D-Bus `s`.
    Str(String),
    /// D-Bus `o`: an object path.
    Path(String),
    /// D-Bus `ay`: bytes, as in paths that are not UTF-8.
    Bytes(Vec<u8>),
    /// An array; goes out as `as` when all are strings, `aa{sv}` when all are maps, else `av`.
    List(Vec<Value>),
    /// An empty or full list of maps; always goes out as `aa{sv}`.
    Maps(Vec<Map>),
    /// D-Bus `a{sv}`.
    Map(Map),
    /// D-Bus `h`.
    Fd(Arc<OwnedFd>),
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Self { Self::$variant(value.into()) }
        })*
    };
}
from!(bool => Bool, u64 => Uint, u32 => Uint32, i64 => Int, i32 => Int32, f64 => Double, String => Str, &str => Str,
      Map => Map, Vec<Map> => Maps, Vec<Value> => List);

impl From<Vec<String>> for Value {
    fn from(list: Vec<String>) -> Self {
        Self::List(list.into_iter().map(Self::Str).collect())
    }
}

impl Value {
    /// What kind of value this is, in words for an error message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean (b)",
            Self::Int(_) | Self::Uint(_) | Self::Uint32(_) | Self::Int32(_) => "an integer",
            Self::Double(_) => "a floating point number (d)",
            Self::Str(_) => "a string (s)",
            Self::Path(_) => "an object path (o)",
            Self::Bytes(_) => "an array of bytes (ay)",
            Self::List(_) | Self::Maps(_) => "an array",
            Self::Map(_) => "a map (a{sv})",
            Self::Fd(_) => "a file descriptor (h)",
        }
    }

    /// The value as a JSON document; bytes become a lossy string.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as J;
        match self {
            Self::Bool(b) => J::from(*b),
            Self::Int(i) => J::from(*i),
            Self::Uint(u) => J::from(*u),
            Self::Uint32(u) => J::from(*u),
            Self::Int32(i) => J::from(*i),
            Self::Double(d) => J::from(*d),
            Self::Str(s) | Self::Path(s) => J::from(s.as_str()),
            Self::Bytes(b) => J::from(String::from_utf8_lossy(b).into_owned()),
            Self::List(l) => J::Array(l.iter().map(Self::to_json).collect()),
            Self::Maps(l) => J::Array(l.iter().map(map_to_json).collect()),
            Self::Map(m) => map_to_json(m),
            Self::Fd(_) => J::Null,
        }
    }
}

/// A map as a JSON object.
pub fn map_to_json(map: &Map) -> serde_json::Value {
    serde_json::Value::Object(map.iter().map(|(k, v)| (k.clone(), v.to_json())).collect())
}

/// A JSON object as a map; what D-Bus cannot say (null) is left out.
pub fn map_from_json(object: &serde_json::Map<String, serde_json::Value>) -> Map {
    object.iter().filter_map(|(key, value)| Some((key.clone(), json_value(value)?))).collect()
}

fn json_value(value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match value {
        Json::Null => return None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n
            .as_u64()
            .map(Value::Uint)
            .or_else(|| n.as_i64().map(Value::Int))
            .or_else(|| n.as_f64().map(Value::Double))?,
        Json::String(s) => Value::Str(s.clone()),
        Json::Array(list) if !list.is_empty() && list.iter().all(Json::is_object) => {
            Value::Maps(list.iter().filter_map(Json::as_object).map(map_from_json).collect())
        }
        Json::Array(list) => Value::List(list.iter().filter_map(json_value).collect()),
        Json::Object(object) => Value::Map(map_from_json(object)),
    })
}
