//! Fields of a partial update, where "absent" and "null" are two things.

use serde::{Deserialize, Deserializer};

/// Absent leaves the value alone, null clears it: `#[serde(default, deserialize_with = "nullable::clearable")]`.
pub fn clearable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// Absent leaves the value alone, null is refused: `#[serde(default, deserialize_with = "nullable::kept")]`.
pub fn kept<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
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
