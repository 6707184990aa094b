# The official nginx image with the module in it, for the images on Debian (not -alpine):
#
#     docker build -t nginx-keepalive --build-arg NGINX=nginx:1.28 .
#
# The module is built in the same image that it is for, so the versions are one. The source of that version comes from
# nginx.org and is checked by its signature, as the image has no headers.

ARG NGINX=nginx:1.28
ARG RUST=rust:1-slim-bookworm

FROM ${RUST} AS rust

FROM ${NGINX} AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
    ca-certificates curl gpg gcc libc6-dev make libclang-dev libssl-dev libpcre2-dev zlib1g-dev
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
RUN mkdir /source
WORKDIR /module
COPY . .
RUN scripts/fetch-nginx "" /source
RUN NGINX_SOURCE_DIR=$(echo /source/nginx-*) scripts/build --output /usr/lib/nginx/modules

FROM ${NGINX}
COPY --from=build /usr/lib/nginx/modules/ngx_http_upstream_keepalive_rs_module.so /usr/lib/nginx/modules/
RUN sed -i '1i load_module modules/ngx_http_upstream_keepalive_rs_module.so;' /etc/nginx/nginx.conf && nginx -t
