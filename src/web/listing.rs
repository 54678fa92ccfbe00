//! The envelope of lists, the same everywhere.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::schema::object;
use crate::base::Page;

object!(pub ListObject = "list");

/// One page of a list.
#[derive(Debug, Serialize)]
pub struct List<T> {
    pub object: ListObject,
    pub data: Vec<T>,
    pub list_metadata: ListMetadata,
}

/// Where a list goes on.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListMetadata {
    /// Send it as `before` for the page before this one; null on the first page.
    pub before: Option<String>,
    /// Send it as `after` for the page after this one; null on the last page.
    pub after: Option<String>,
}

impl<T> From<Page<T>> for List<T> {
    fn from(page: Page<T>) -> Self {
        let list_metadata = ListMetadata { before: page.before, after: page.after };
        Self { object: ListObject, data: page.data, list_metadata }
    }
}

/// By hand, because a derived one would copy the whole of `T` into each list.
impl<T: ToSchema> utoipa::__dev::ComposeSchema for List<T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some("One page of a list."))
            .property("object", ListObject::schema())
            .property("data", ArrayBuilder::new().items(Ref::from_schema_name(T::name())))
            .property("list_metadata", Ref::from_schema_name(ListMetadata::name()))
            .required("object")
            .required("data")
            .required("list_metadata")
            .into()
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    /// The library adds the name of `T`.
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("List")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        schemas.push((ListMetadata::name().into_owned(), ListMetadata::schema()));
        T::schemas(schemas);
    }
}
