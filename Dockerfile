# Bulkhead in a container: one binary on a small base, as an ordinary user, writing to /data only.
#
#   docker build -t bulkhead .
#   docker run --read-only -v bulkhead:/data -p 8080:8080 -e BULKHEAD_SERVER_PUBLIC_URL=https://id.example.com ... bulkhead
#
# With the encryption of whole files (docs/ENCRYPTION.md), which needs OpenSSL's libcrypto in the image:
#   docker build --build-arg FEATURES=sqlcipher -t bulkhead:sqlcipher .
#
# The bases are arguments, so that a mirror or a base made on this machine will do:
#   buildah build --format docker --build-arg BUILD_IMAGE=localhost/rust --build-arg RUNTIME_IMAGE=localhost/debian .

ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
# aws-lc and SQLite are compiled from C.
RUN for tool in cc cmake pkg-config; do command -v "$tool" >/dev/null || missing=yes; done; \
    if [ -n "${missing:-}" ] || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update && \
        apt-get install -y --no-install-recommends build-essential ca-certificates cmake pkg-config && \
        rm -rf /var/lib/apt/lists/*; \
    fi
ARG FEATURES=
# SQLCipher is compiled against OpenSSL's headers.
RUN case " $FEATURES " in *[\ ,]sqlcipher[\ ,]*) \
        [ -e /usr/include/openssl/evp.h ] || { \
            apt-get update && apt-get install -y --no-install-recommends libssl-dev && rm -rf /var/lib/apt/lists/*; \
        } ;; \
    esac
# Dependencies first: their layer stays while only sources change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && touch src/lib.rs src/main.rs && cargo fetch --locked && rm -r src
COPY . .
ARG PROFILE=dist
RUN cargo build --locked --profile "$PROFILE" --features "$FEATURES" --bin bulkhead && \
    mkdir -p /out/data && cp target/*/bulkhead /out/bulkhead

FROM ${RUNTIME_IMAGE}
ARG FEATURES=
# A package and no copy of a file, so that scanners see it and an update of the image patches it.
RUN case " $FEATURES " in *[\ ,]sqlcipher[\ ,]*) \
        ldconfig -p | grep -q 'libcrypto\.so\.3' || { \
            apt-get update && apt-get install -y --no-install-recommends libssl3 && rm -rf /var/lib/apt/lists/*; \
        } ;; \
    esac
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/bulkhead /usr/local/bin/bulkhead
# A fixed number, so that a volume's owner is known on the host and in Kubernetes (runAsNonRoot).
COPY --from=build --chown=10001:10001 /out/data /data
USER 10001:10001
WORKDIR /data
ENV BULKHEAD_SERVER_DATA_DIR=/data \
    BULKHEAD_SERVER_LISTEN=0.0.0.0:8080 \
    BULKHEAD_SERVER_METRICS_LISTEN=0.0.0.0:9464 \
    BULKHEAD_LOG_FORMAT=json
VOLUME /data
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["bulkhead", "healthcheck"]
ENTRYPOINT ["bulkhead"]
CMD ["serve"]
