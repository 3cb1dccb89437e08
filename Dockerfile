# medtrace on the CPU: docker build -t medtrace . && docker run --rm -v "$PWD:/work" medtrace doctor
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NUMBA_CACHE_DIR=/tmp/numba

WORKDIR /opt/medtrace
COPY . .
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install -c constraints.txt '.[bench,dicom]' \
    && useradd --create-home --uid 1000 medtrace

USER 1000
RUN medtrace doctor --compile \
    && chmod -R a+rwX "$NUMBA_CACHE_DIR"
WORKDIR /work
ENTRYPOINT ["medtrace"]
CMD ["--help"]
