//! The envelope of lists, the same everywhere.

use serde::Serialize;

use super::schema::object;
use crate::base::Page;

object!(pub ListObject = "list");

/// One page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct List<T: utoipa::ToSchema> {
    #[schema(inline)]
    pub object: ListObject,
    pub data: Vec<T>,
    pub list_metadata: ListMetadata,
}

/// Where a list goes on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ListMetadata {
    /// Send it as `before` for the page before this one; null on the first page.
    pub before: Option<String>,
    /// Send it as `after` for the page after this one; null on the last page.
    pub after: Option<String>,
}

impl<T: utoipa::ToSchema> From<Page<T>> for List<T> {
    fn from(page: Page<T>) -> Self {
        let list_metadata = ListMetadata { before: page.before, after: page.after };
        Self { object: ListObject, data: page.data, list_metadata }
    }
}
