//! Whether the client's body is sent with the auth subrequest, and which request an earlier answer belongs to.
#![forbid(unsafe_code)]

/// The client's body, when a location is about to authorise the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientBody {
    /// The client sends none.
    Absent,
    /// nginx has not read it. Its size in bytes, if the client has announced it.
    Unread(Option<u64>),
    /// nginx has read it completely; its size in bytes.
    Read(u64),
    /// The client has sent one, but nginx has discarded it, or has passed it on already, completely or in part.
    Gone,
}

/// How the auth subrequest is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Without a body.
    WithoutBody,
    /// After the client's body was read.
    ReadFirst,
    /// With the client's body, whose size is in bytes.
    WithBody(u64),
    /// Not at all: the body, whose size is in bytes, is larger than the limit.
    TooLarge(u64),
    /// Not at all: the body must be sent, but is gone.
    Gone,
}

impl ClientBody {
    /// How the auth subrequest is sent. `limit` is the value of `auth_subrequest_body` in bytes; 0 if bodies are not sent.
    pub fn plan(self, limit: u64) -> BodyPlan {
        match self {
            _ if limit == 0 => BodyPlan::WithoutBody,
            Self::Absent => BodyPlan::WithoutBody,
            Self::Unread(Some(size)) | Self::Read(size) if size > limit => BodyPlan::TooLarge(size),
            Self::Unread(_) => BodyPlan::ReadFirst,
            Self::Read(size) => BodyPlan::WithBody(size),
            Self::Gone => BodyPlan::Gone,
        }
    }
}

/// The body and the method of an auth subrequest that was sent. The method matters only with a body: without one it is
/// always GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentRequest {
    /// The size of the body in bytes, `None` without one.
    pub body: Option<u64>,
    /// nginx's number of the request's method.
    pub method: usize,
}

impl SentRequest {
    /// Whether a subrequest sent by `plan` and `method` would be the same: only then its answer is valid for both.
    pub fn matches(self, plan: BodyPlan, method: usize) -> bool {
        match (self.body, plan) {
            (None, BodyPlan::WithoutBody) => true,
            (Some(body), BodyPlan::WithBody(size)) => body == size && self.method == method,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_depends_on_the_body_and_its_limit() {
        use ClientBody::{Absent, Gone, Read, Unread};
        for body in [Absent, Unread(None), Unread(Some(5)), Read(5), Gone] {
            assert_eq!(body.plan(0), BodyPlan::WithoutBody, "{body:?}");
        }
        assert_eq!(Absent.plan(10), BodyPlan::WithoutBody);
        assert_eq!(Unread(None).plan(10), BodyPlan::ReadFirst);
        assert_eq!(Unread(Some(10)).plan(10), BodyPlan::ReadFirst);
        assert_eq!(Unread(Some(11)).plan(10), BodyPlan::TooLarge(11));
        assert_eq!(Read(0).plan(10), BodyPlan::WithBody(0));
        assert_eq!(Read(10).plan(10), BodyPlan::WithBody(10));
        assert_eq!(Read(11).plan(10), BodyPlan::TooLarge(11));
        assert_eq!(Gone.plan(10), BodyPlan::Gone);
    }

    #[test]
    fn an_answer_is_valid_for_the_same_request_only() {
        let bare = SentRequest { body: None, method: 2 };
        let with = SentRequest { body: Some(5), method: 2 };
        assert!(bare.matches(BodyPlan::WithoutBody, 2));
        assert!(bare.matches(BodyPlan::WithoutBody, 8));
        assert!(!bare.matches(BodyPlan::WithBody(5), 2));
        assert!(with.matches(BodyPlan::WithBody(5), 2));
        assert!(!with.matches(BodyPlan::WithBody(6), 2));
        assert!(!with.matches(BodyPlan::WithBody(5), 8));
        assert!(!with.matches(BodyPlan::WithoutBody, 2));
        for plan in [BodyPlan::ReadFirst, BodyPlan::TooLarge(5), BodyPlan::Gone] {
            assert!(!bare.matches(plan, 2) && !with.matches(plan, 2), "{plan:?}");
        }
    }
}
