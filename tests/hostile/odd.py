"""Odd methods, names, values and texts: each has broken some server, some parser or some store."""

from __future__ import annotations

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PROPFIND")
NAMES = (
    *("Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization", "Proxy-Authorization"),
    *("X-API-Key", "X_API_Key", "Content-Type", "Content-Encoding", "Content-Language", "Content-Range", "Cookie"),
    *("Date", "Expect", "Host", "Idempotency-Key", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range"),
    *("If-Unmodified-Since", "Range", "Forwarded", "Origin", "Referer", "SCRIPT_NAME", "PATH_INFO", "REMOTE_USER"),
    *("Script-Name", "TE", "Trailer", "Upgrade", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"),
    *("X-Forwarded-Prefix", "X-HTTP-Method-Override", "X-Request-ID", "X-Original-URL", "traceparent", "tracestate"),
    *("baggage", "User-Agent", "From", "Max-Forwards", "Pragma", "Cache-Control", "Keep-Alive", "HTTP2-Settings"),
    *("Sec-Fetch-Site", "Sec-WebSocket-Key", "Access-Control-Request-Method", "wsgi.input", "werkzeug.request"),
)
VALUES = (
    *("", " ", "*", "*/*;q=x", "/foo", "0", "-1", "x" * 5000, "1" * 5000, ";" * 500, "," * 500, '"', '"\\', "=", "%00"),
    *("text/plain;version=abc", "text/plain; version=", "application/openmetrics-text; version=1.0.0.0.0"),
    *("application/openmetrics-text;version=9;escaping=allow-utf-8", "text/plain;version=1.0.0;escaping=x"),
    *("application/json; charset=utf-16", "application/json; charset=\xff", 'application/json; charset="', "a/b/c"),
    *("application/json;" * 50, "application/json; charset*=utf-8''%ff", "APPLICATION/JSON", "multipart/form-data"),
    *("multipart/form-data; boundary=" + "x" * 300, "application/x-www-form-urlencoded", "text/html; charset=idna"),
    *("bytes=0-", "bytes=5-1,9-", "bytes=-99999999999999999999", "bytes=0-0," * 400, "bytes=\xb2-", "lines=1-2"),
    *('W/"x"', '"x"', '"' + "x" * 4000, "W/", "W/W/*", "Bearer", "Bearer ", "Bearer \xff\xfe", "Basic Og==", "Basic %"),
    *("Digest username=", "bearer a b", "100-continue", "100-Continue, x", "gzip", "deflate", "identity", "br, gzip"),
    *("chunked", "identity, chunked", "chunked, chunked", "xchunked", "00-" + "a" * 32 + "-" + "b" * 16 + "-zz"),
    *("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01", "cc-" + "-" * 60),
    *("Thu, 32 Foo 99999 99:99:99 GMT", "Thu, 01 Jan 0000 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -9999", "\xb2"),
    *("localhost:99999999", "[::1", "a.b:c", "a b", "\xe4", "localhost:\xb2", "[v1.x]", ".", "..", "@", "http://x/"),
    *("trailers", "close, x", "keep-alive", "upgrade", "h2c", "websocket", "$Version=1"),
    *("a=b; a=c; =d; \xff", "a=\\303"),
    *("for=_x;by=[::1", "<script>", "${jndi:ldap://x}", "\x85", "\xa0", "\t", "None", "null", "true", "__proto__"),
)
PATH_BITS = (
    *(b"%00", b"%0d%0aX-Injected: 1", b"%ff%fe", b"%c0%af", b"%e2%80%ae", b"%2f", b"%2e%2e/", b"../", b"./", b"//"),
    *(b"%", b"%z", b"%zz", b"%u0041", b";x=1", b"\\", b":", b"*", b"@", b"~", b"\xff", b"\xc3\xa9", b"\xe2\x82\xac"),
    *(b"<x>", b"{x}", b"|", b"^", b"a" * 3900, b"exec_" * 50, b"%F0%9F%98%80", b"%ED%A0%80", b"+"),
    *(b"%20", b"%25%30%30"),
    *(b" ", b"\t", b"\x00", b"#fragment", b"http://evil/", b"?", b"[", b"]", b"'", b'"', b"$", b"1" * 400),
)
QUERY_BITS = (
    *(b"page=0", b"page=-1", b"page=" + b"9" * 3000, b"page=999999999", b"page=%D9%A3", b"page=1_0", b"page=1e3"),
    *(b"page=", b"page", b"page_size=101", b"page_size=\xb2", b"status=running", b"status=COMPLETED", b"status[]=a"),
    *(b"target_id=%00", b"target_id=%ED%A0%80", b"target_id=:", b"target_id=*", b"target_id=" + b"x" * 2000),
    *(b"sort=__class__", b"search=x"),
    *(b"order=asc", b"order=%E2%80%AE", b"include=steps", b"include=outputs", b"type=agent", b"type=pipeline"),
    *(b"%ff=%00", b"%00"),
    *(b"api_key=x", b"a&a", b"=", b"&&&&", b"a=b;c=d", b"%", b"%zz=%", b"+=+", b"a" * 3000, b"&".join([b"p=1"] * 900)),
    *(b"page=1&page=2", b"\xff\xfe", b"a[b][c]=d", b"_method=DELETE", b"?", b"??page=1", b"callback=x", b"{}", b"<>"),
)
TEXTS = (
    *("", " ", "a", "x" * 129, "\x00", "a\x00b", "\u202e", "\u200b", "\ufeff", "e\u0301", "\u00e9", "\U0001f600"),
    *("\x1b[31m", "\r\n"),
    *("../../etc/passwd", "__proto__", "__class__", "constructor", "{{ 7*7 }}", "{% for %}", "${x}", "%s%n", "\\", '"'),
    *("agent", "pipeline", "behaves", "relay", "diamond", "process", "thread", "async", "default", "failure", "start"),
    *("default:other", "a:b:c", "*", "null", "true", "60", "1e999", "NaN", "-0", "0x10", "\uffff"),
    *("\ud7ff", "K" * 70_000),
    *("eyJ" + "-" * 3000, "Bearer " + "x" * 500, "exkey_" + "a" * 43, "password=" * 300, "://a:" * 500, "\n" * 500),
)
NUMBERS = (
    *(0, 1, -1, 2, 64, 65, 86_400, 86_401, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**18, 10**30),
    *(10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e18, 1e300, 1.7976931348623157e308, -1e308, 0.1 + 0.2, 59.99999999999999),
)
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1E+2", "01", ".5", "+1", "1.", "0x1", "1_0", "- 1"),
    *("1e", "--1"),
    *("9" * 4300, "9" * 5000, "0." + "0" * 4000 + "1", "1e-99999", "1e99999999999", "undefined", "'a'"),
    *("/*x*/1", "1//x"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u12"', '"\\x"', '"\n"', '"\t"'),
    *('"', "[", "{"),
    *("[" * 63 + "]" * 63, "[" * 64 + "]" * 64, "[" * 2000 + "]" * 2000, '{"a":' * 2000, "{}" * 50, "[1,]", '{"a":1,}'),
    *('{"a":1,"a":2}', '{"a":1,"\\u0061":2}', "[" + "0," * 100_001 + "0]", '{"":{"":{"":""}}}', '{"\\ud800":1}', ""),
    *('{"' + "k" * 600_000 + '":1}', '"' + "t" * 524_289 + '"', '"' + "\\\\" * 30_000 + '"', "true false", "nul"),
)
SERVER_OWNED = ("status", "id", "execution_id", "tenant", "created_at", "attempt", "progress", "func", "queue")
