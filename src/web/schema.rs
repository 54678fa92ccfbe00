//! How the house's values look in the API document.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::base::{Email, Id, IdKind, Scope, Secret, Slug, Timestamp};
use crate::crypto::Algorithm;

/// The type of an `object` field, which always holds the same word: `object!(pub MemberObject = "member")`.
macro_rules! object {
    ($visibility:vis $name:ident = $text:literal) => {
        #[doc = concat!("Always `", $text, "`.")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility struct $name;

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($text)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                $crate::web::schema::one_of([$text])
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use object;

/// Text that is one of a few words.
pub fn one_of(words: impl IntoIterator<Item = &'static str>) -> RefOr<Schema> {
    text().enum_values(Some(words)).into()
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

impl<K: IdKind> PartialSchema for Id<K> {
    fn schema() -> RefOr<Schema> {
        text()
            .pattern(Some(format!("^{}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$", K::PREFIX)))
            .examples([format!("{}_01kaj4vbg0e3n9v7m2t8x5q6wz", K::PREFIX)])
            .into()
    }
}

impl<K: IdKind> ToSchema for Id<K> {
    fn name() -> Cow<'static, str> {
        // `…::MemberKind` is the kind of a `MemberId`.
        let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
        Cow::Owned(format!("{}Id", kind.trim_end_matches("Kind")))
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        text()
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("A moment in RFC 3339, in UTC."))
            .examples(["2026-11-22T09:30:00.000Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}

impl PartialSchema for Email {
    fn schema() -> RefOr<Schema> {
        text()
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Email)))
            .min_length(Some(3))
            .max_length(Some(254))
            .examples(["ada@example.com"])
            .into()
    }
}

impl ToSchema for Email {}

impl PartialSchema for Slug {
    fn schema() -> RefOr<Schema> {
        text()
            .pattern(Some("^[a-z0-9][a-z0-9-]{0,61}[a-z0-9]$"))
            .description(Some("2 to 63 lower-case letters, digits and inner hyphens. A few names are kept back."))
            .examples(["acme"])
            .into()
    }
}

impl ToSchema for Slug {}

impl PartialSchema for Secret {
    fn schema() -> RefOr<Schema> {
        text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Password))).into()
    }
}

impl ToSchema for Secret {}

impl PartialSchema for Scope {
    fn schema() -> RefOr<Schema> {
        one_of(Self::ALL.iter().map(|scope| scope.as_str()))
    }
}

impl ToSchema for Scope {}

impl PartialSchema for Algorithm {
    fn schema() -> RefOr<Schema> {
        one_of([Self::RS256.as_str(), Self::ES256.as_str()])
    }
}

impl ToSchema for Algorithm {}

/// Text of a bounded length, for parameters that are described by hand.
#[must_use]
pub fn bounded_text(least: usize, most: usize) -> Object {
    text().min_length(Some(least)).max_length(Some(most)).build()
}
