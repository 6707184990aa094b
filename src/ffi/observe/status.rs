//! `keepalive_status`: the handler of a location that shows the numbers of all pools.
//!
//! ```text
//!   keepalive_status_handler --> header --> send_some: fill the buffer, pass it to filters --+--> finalize
//!                                             ^                                              |
//!                                             +--- the client takes its time: write event ---+
//!                                             +--- other events have their turn: alarm ------+
//! ```

use std::cell::RefCell;
use std::ffi::CStr;
use std::mem::zeroed;
use std::ptr::{self, NonNull};
use std::time::{SystemTime, UNIX_EPOCH};

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_cycle, ngx_event_t, ngx_handle_write_event, ngx_http_arg,
    ngx_http_complex_value_t, ngx_http_core_loc_conf_t, ngx_http_discard_request_body,
    ngx_http_event_handler_pt, ngx_http_finalize_request, ngx_http_output_filter, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_send_header, ngx_http_send_response, ngx_http_test_reading,
    ngx_int_t, ngx_str_t, ngx_table_elt_t, NGX_DONE, NGX_ERROR, NGX_HTTP_GET, NGX_HTTP_HEAD,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_NOT_ALLOWED, NGX_HTTP_OK, NGX_HTTP_REQUEST_TIME_OUT,
    NGX_HTTP_SERVICE_UNAVAILABLE, NGX_OK,
};
use ngx::http::{HttpModuleLocationConf, NgxHttpCoreModule};
use ngx::ngx_string;

use crate::base::memory::Text;
use crate::lessons::View;
use crate::metrics::ServerInfo;
use crate::status::{choose, Format, Writer, FORMATS};

use crate::ffi::nginx::bits;
use crate::ffi::nginx::guard::guard;
use crate::ffi::nginx::handle::{field_ptr, get_bit, get_field, handle, set_field, Handle as _};
use crate::ffi::nginx::headers::{bytes, Headers};
use crate::ffi::nginx::memory::{allocate, or_fail, place_in_pool, push_to_list};
use crate::ffi::nginx::request::Request;
use crate::ffi::nginx::this_module::module;
use crate::ffi::nginx::timer::Alarm;
use crate::ffi::shared::main_conf::MainConf;

/// The size of a piece that is passed to the filters, in bytes, approximately.
const PIECE: usize = 32 * 1024;

/// The number of pieces after which other events have their turn.
const PIECES: usize = 4;

const NOT_ACCEPTABLE: usize = 406;

/// Nothing is counted, because the master had no memory for it.
const UNAVAILABLE: ngx_int_t = NGX_HTTP_SERVICE_UNAVAILABLE as ngx_int_t;

/// A line for the error log: memory that was not asked of nginx leaves no line there.
const NO_MEMORY: &CStr = c"keepalive_status: no memory to show the numbers";

/// A response that is being sent; in the request's pool.
struct Page {
    r: Request,
    writer: RefCell<Writer>,
    /// The bytes that the buffer points at; not changed until the filters have taken them.
    text: RefCell<Text>,
    buffer: Buffer,
    /// Calls `send_some`, unless the last piece was sent before.
    alarm: Alarm,
}

/// The buffer of a page.
///
/// # Invariants
/// Points at an `ngx_buf_t` in the pool of the page's request, which is alive.
#[derive(Clone, Copy)]
struct Buffer(NonNull<ngx_buf_t>);

handle!(Buffer, ngx_buf_t);

/// The content handler of a location with `keepalive_status`.
pub(super) unsafe extern "C" fn keepalive_status_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    guard(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t, || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return NGX_ERROR as ngx_int_t };
        if r.method() & (NGX_HTTP_GET | NGX_HTTP_HEAD) as usize == 0 {
            return NGX_HTTP_NOT_ALLOWED as ngx_int_t;
        }
        // SAFETY: the live request, whose body nobody reads.
        let rc = unsafe { ngx_http_discard_request_body(r.as_ptr()) };
        if rc != NGX_OK as ngx_int_t {
            return rc;
        }
        match format(r) {
            Some(format) => answer(r, format),
            None => name_formats(r),
        }
    })
}

/// Answers a client that accepts none of the formats.
fn name_formats(r: Request) -> ngx_int_t {
    let mut content_type = ngx_string!("text/plain");
    // SAFETY: for a C structure of numbers and pointers zero is a valid value; then the text has no variables.
    let mut body: ngx_http_complex_value_t = unsafe { zeroed() };
    body.value = text(FORMATS);
    // SAFETY: a live request whose body is discarded; nginx copies both strings, whose bytes are static.
    or_fail(NGX_ERROR as ngx_int_t, || unsafe {
        ngx_http_send_response(r.as_ptr(), NOT_ACCEPTABLE, &raw mut content_type, &raw mut body)
    })
}

/// The format that the client wants.
fn format(r: Request) -> Option<Format> {
    let mut value = ngx_str_t::empty();
    let mut name = *b"format";
    // SAFETY: a live request; the name is only read.
    let rc = unsafe { ngx_http_arg(r.as_ptr(), name.as_mut_ptr(), name.len(), &raw mut value) };
    let argument = (rc == NGX_OK as ngx_int_t).then(|| bytes(value));
    let list = field_ptr!(r.headers_in.headers);
    // SAFETY: the list of a live request.
    let headers = unsafe { Headers::of(list) };
    let accept = headers.filter(|header| header.name().eq_ignore_ascii_case(b"accept"));
    choose(argument, accept.map(|header| bytes(header.value())))
}

/// Sends the header, and the first piece.
fn answer(r: Request, format: Format) -> ngx_int_t {
    if MainConf::of(r).is_none_or(|main| main.zone.generation().is_none()) {
        return UNAVAILABLE;
    }
    let page = Page::new(r, format);
    let Some(page) = page.filter(|_| set_header(r, format).is_some()) else {
        r.log_crit(NO_MEMORY);
        return NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;
    };
    // SAFETY: a live request with its headers set.
    let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe { ngx_http_send_header(r.as_ptr()) });
    // SAFETY: live by the type invariant; reads one bit.
    let header_only = unsafe { bits::HEADER_ONLY.is_set(r.as_ptr()) };
    if rc == NGX_ERROR as ngx_int_t || rc > NGX_OK as ngx_int_t || header_only {
        return rc;
    }
    let (write, read): (ngx_http_event_handler_pt, ngx_http_event_handler_pt) =
        (Some(write_event_handler), Some(ngx_http_test_reading));
    set_field!(r.write_event_handler = write);
    // The rest of a body is read by its own handler, which also notices that the client has left.
    if !get_bit!(r: ngx_http_request_t::discard_body_raw) {
        set_field!(r.read_event_handler = read);
    }
    r.set_context_of(module(), page.as_ptr().cast());
    r.main().retain();
    // SAFETY: placed in the pool of the live request.
    send_some(unsafe { page.as_ref() });
    NGX_DONE as ngx_int_t
}

/// Sets the header of the response; `None` if there is no memory.
fn set_header(r: Request, format: Format) -> Option<()> {
    let content_type = text(format.content_type());
    set_field!(r.headers_out.status = NGX_HTTP_OK as usize);
    set_field!(r.headers_out.content_length_n = -1);
    set_field!(r.headers_out.content_type = content_type);
    // `gzip_types` is compared with the type without its parameters.
    set_field!(r.headers_out.content_type_len = format.content_type().split(';').next()?.len());
    add_header(r, ngx_string!("Cache-Control"), ngx_string!("no-store"))?;
    add_header(r, ngx_string!("X-Content-Type-Options"), ngx_string!("nosniff"))?;
    if format == Format::Html {
        add_header(r, ngx_string!("Content-Security-Policy"), text(POLICY))?;
    }
    Some(())
}

/// The page may load its numbers from its own origin, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'";

fn add_header(r: Request, name: ngx_str_t, value: ngx_str_t) -> Option<()> {
    let list = field_ptr!(r.headers_out.headers);
    // SAFETY: the list of a live request.
    let header = unsafe { push_to_list::<ngx_table_elt_t>(list) }?;
    // SAFETY: for a C structure of numbers and pointers zero is a valid value.
    let mut fresh: ngx_table_elt_t = unsafe { zeroed() };
    fresh.hash = 1;
    fresh.key = name;
    fresh.value = value;
    // SAFETY: a new element of the list.
    unsafe { header.write(fresh) };
    Some(())
}

fn text(text: &'static str) -> ngx_str_t {
    ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() }
}

/// The present configuration.
fn present<'a>() -> Option<&'a MainConf> {
    // SAFETY: nginx sets it before any request, and only its one thread reads it here.
    let cycle = unsafe { ngx_cycle };
    // SAFETY: the worker's cycle, whose configuration has been read.
    unsafe { MainConf::of_cycle(cycle) }
}

/// Describes a server of the present configuration, by the number of its upstream and its address.
fn describe(upstream: usize, address: &[u8]) -> Option<ServerInfo> {
    present()?.zone.describe(upstream, address)
}

/// What was learned of the server at an address.
fn learned(address: &[u8]) -> View {
    present().map_or_else(View::default, |main| main.learning.view(address))
}

impl Page {
    fn new(r: Request, format: Format) -> Option<NonNull<Self>> {
        let zone = &MainConf::of(r)?.zone;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let writer = Writer::new(format, zone.snapshot(&describe)?, &learned, time.as_secs_f64());
        // SAFETY: the pool of a live request.
        let buffer = unsafe { allocate::<ngx_buf_t>(r.pool(), 1) }?.cast::<ngx_buf_t>();
        // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
        let empty: ngx_buf_t = unsafe { zeroed() };
        // SAFETY: allocated above for a buffer.
        unsafe { buffer.write(empty) };
        let page = Self {
            r,
            writer: RefCell::new(writer),
            text: RefCell::new(Text::new(PIECE + PIECE / 2)?),
            buffer: Buffer(buffer),
            alarm: Alarm::new(),
        };
        // SAFETY: the pool of a live request.
        unsafe { place_in_pool(r.pool(), page) }
    }

    /// Whether the filters have taken all of the last piece.
    fn is_taken(&self) -> bool {
        let buffer = self.buffer;
        get_field!(buffer.pos) == get_field!(buffer.last)
    }

    /// Gives the next piece to the filters. Returns what they say, and whether it was the last one.
    fn send(&self) -> (ngx_int_t, bool) {
        let mut text = self.text.borrow_mut();
        let mut writer = self.writer.borrow_mut();
        text.clear();
        let mut is_last = false;
        while text.bytes().len() < PIECE && !is_last {
            is_last = !writer.write(&mut text);
        }
        if !text.is_whole() {
            self.r.log_crit(NO_MEMORY);
            return (NGX_ERROR as ngx_int_t, true);
        }
        let bytes = text.bytes_mut().as_mut_ptr_range();
        drop((text, writer));
        let is_main = self.r.main() == self.r;
        // SAFETY: for a C structure of numbers, bit-fields and pointers zero is a valid value.
        let mut fresh: ngx_buf_t = unsafe { zeroed() };
        (fresh.start, fresh.pos, fresh.last, fresh.end) = (bytes.start, bytes.start, bytes.end, bytes.end);
        fresh.set_memory(u32::from(bytes.start != bytes.end));
        fresh.set_flush(u32::from(!is_last));
        fresh.set_last_buf(u32::from(is_last && is_main));
        fresh.set_last_in_chain(u32::from(is_last));
        fresh.set_sync(u32::from(bytes.start == bytes.end && !is_main));
        // SAFETY: alive by the type invariant; the filters have taken all that it held.
        unsafe { self.buffer.as_ptr().write(fresh) };
        let mut link = ngx_chain_t { buf: self.buffer.as_ptr(), next: ptr::null_mut() };
        // SAFETY: a live request whose header was sent. Filters may keep the buffer, but not the link.
        let rc = or_fail(NGX_ERROR as ngx_int_t, || unsafe {
            ngx_http_output_filter(self.r.as_ptr(), &raw mut link)
        });
        (rc, is_last)
    }
}

/// Sends as much as the client takes, but at most [`PIECES`] pieces before other events have their turn.
fn send_some(page: &Page) {
    for _ in 0..PIECES {
        if !page.is_taken() {
            return wait_for_client(page);
        }
        let (rc, is_last) = page.send();
        if is_last || rc == NGX_ERROR as ngx_int_t {
            return finalize(page, rc);
        }
    }
    // A worker that exits ends as soon as no timer is set, even if events are posted.
    set_timer(page);
    page.alarm.prepare(alarm_handler, ptr::from_ref(page).cast_mut().cast(), false);
    page.alarm.post_next();
}

/// Waits until the client takes more, as `ngx_http_writer()` does.
fn wait_for_client(page: &Page) {
    let write = page.r.client().write();
    set_timer(page);
    // SAFETY: the write event of an open connection.
    let rc = unsafe { ngx_handle_write_event(write.as_ptr(), core_conf(page.r).send_lowat) };
    if rc != NGX_OK as ngx_int_t {
        finalize(page, NGX_ERROR as ngx_int_t);
    }
}

/// Starts `send_timeout`, unless `limit_rate` has set the timer.
fn set_timer(page: &Page) {
    let write = page.r.client().write();
    if !write.delayed() {
        write.set_timer(core_conf(page.r).send_timeout);
    }
}

fn core_conf<'a>(r: Request) -> &'a ngx_http_core_loc_conf_t {
    // SAFETY: live by the type invariant; only its configuration is read.
    let r = unsafe { &*r.as_ptr() };
    NgxHttpCoreModule::location_conf(r).expect("nginx has one of the core module for each location")
}

/// The client has taken data, or `send_timeout` is over.
unsafe extern "C" fn write_event_handler(r: *mut ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx passes a live request.
        let Some(r) = (unsafe { Request::from_raw(r) }) else { return };
        let Some(page) = r.context_of(module()) else { return };
        // SAFETY: `answer` has put it there; in the pool of the live request.
        let page = unsafe { page.cast::<Page>().as_ref() };
        let write = r.client().write();
        if write.timed_out() {
            r.client().set_timed_out();
            return finalize(page, NGX_HTTP_REQUEST_TIME_OUT as ngx_int_t);
        }
        if write.delayed() {
            // `limit_rate` delays the next piece.
            return wait_for_client(page);
        }
        write.clear_timer();
        // SAFETY: a live request whose header was sent; no chain means what is buffered.
        if unsafe { ngx_http_output_filter(r.as_ptr(), ptr::null_mut()) } == NGX_ERROR as ngx_int_t {
            return finalize(page, NGX_ERROR as ngx_int_t);
        }
        send_some(page);
    });
}

/// Other events have had their turn.
unsafe extern "C" fn alarm_handler(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of a page's alarm; reads one field.
    let page = unsafe { (*event).data }.cast::<Page>();
    guard((), || {
        // SAFETY: `send_some` has put the page there, and `finalize` cancels the alarm before the page goes.
        let page = unsafe { &*page };
        let client = page.r.client();
        send_some(page);
        // SAFETY: the connection outlives this handler. nginx's own handlers end with this call, too, even if the request is
        // gone.
        unsafe { ngx_http_run_posted_requests(client.as_ptr()) };
    });
}

/// Ends our part. The request may live on to send buffered data, or to discard a body.
fn finalize(page: &Page, rc: ngx_int_t) {
    page.alarm.cancel();
    let write = page.r.client().write();
    if !write.delayed() {
        write.clear_timer();
    }
    // SAFETY: alive, as `answer` has retained the main request.
    unsafe { ngx_http_finalize_request(page.r.as_ptr(), rc) };
}
