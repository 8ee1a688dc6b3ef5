# The default rules, except that what must not be cached is passed from the start, and text is stored
# compressed.
vcl 4.1;

backend origin {
  .host = "127.0.0.1";
  .port = "{{origin}}";
}

sub vcl_recv {
  if (req.url ~ "^/proxied/") {
    return (pass);
  }
}

sub vcl_backend_response {
  if (bereq.url ~ "^/text/") {
    set beresp.do_gzip = true;
  }
}
