//! Fields of a partial update, where "absent" and "null" are two things.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Absent leaves the value alone, null clears it: `#[serde(default, deserialize_with = "nullable::clearable")]`.
pub fn clearable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// Absent leaves the value alone, null is refused: `#[serde(default, deserialize_with = "nullable::kept")]`.
pub fn kept<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The same for a value that is an object of its own: a derived reader would take a list of the values for one.
pub fn kept_object<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    let object = Map::<String, Value>::deserialize(from)?;
    T::deserialize(Value::Object(object)).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Change {
        #[serde(default, deserialize_with = "super::clearable")]
        name: Option<Option<String>>,
        #[serde(default, deserialize_with = "super::kept")]
        email: Option<String>,
    }

    #[test]
    fn absent_null_and_given_are_told_apart() {
        let read = |json| serde_json::from_str::<Change>(json);
        assert_eq!(read("{}").unwrap(), Change { name: None, email: None });
        assert_eq!(read(r#"{"name":null}"#).unwrap().name, Some(None));
        assert_eq!(read(r#"{"name":"Ada","email":"a"}"#).unwrap().name, Some(Some("Ada".into())));
        assert!(read(r#"{"email":null}"#).is_err());
    }
}
