//! The authorisation decision: what the answer to an auth subrequest means, how the subrequest is sent, which headers
//! pass, and which values the directives accept.
#![forbid(unsafe_code)]

mod directives;

mod client_body;

mod verdict;

mod header_name;

mod response_headers;

pub use client_body::{BodyPlan, ClientBody, SentRequest};
pub use directives::{parse_status, parse_uri, OnError, PASS_STATUS};
pub use header_name::{is_same_header, parse_header};
pub use response_headers::{closes_request, describes_body, error_page_status, is_repeatable, is_single};
pub use verdict::{decisive_answer, Answer, Verdict};
