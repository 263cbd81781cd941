# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin onceproxy \
    && strip --strip-all -o /onceproxy target/release/onceproxy \
    && mkdir /data

# glibc, libgcc, root certificates, and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /onceproxy /usr/local/bin/onceproxy
# A volume that is made from the image takes over the folder's owner.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080 9180
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["onceproxy", "healthcheck"]
ENTRYPOINT ["onceproxy"]
CMD ["run"]
