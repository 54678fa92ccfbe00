//! What came back.

use std::fmt;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::Value;

#[derive(Clone)]
pub struct Answer {
    /// Method and address, for the message of a failed test.
    pub asked: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The answer itself, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// A problem with this status and code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self
    }

    /// A redirect to this address.
    #[track_caller]
    pub fn expect_redirect(self, location: &str) -> Self {
        assert_eq!((self.status, self.location()), (303, location), "{self:?}");
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn location(&self) -> &str {
        self.header("location").unwrap_or("")
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The `id` of the object.
    #[track_caller]
    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }

    /// The stable code of a problem; empty if it is none.
    pub fn code(&self) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json["code"].as_str().unwrap_or("").to_owned()
    }

    /// Everything that a client can tell two answers apart by, without what is different in every answer.
    pub fn essence(&self) -> (u16, String, String) {
        let id = self.header("x-request-id").unwrap_or("-").to_owned();
        (self.status, self.location().to_owned(), self.text().replace(&id, "-"))
    }

    pub fn cookies(&self) -> Vec<String> {
        self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    /// Whether a text stands anywhere in it, headers included, in any case.
    pub fn mentions(&self, text: &str) -> bool {
        let headers = format!("{:?}", self.headers);
        let body = String::from_utf8_lossy(&self.body);
        format!("{headers}{body}").to_lowercase().contains(&text.to_lowercase())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} -> {} {} {body}", self.asked, self.status, self.location())
    }
}
