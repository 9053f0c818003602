# compress on a CPU, with the versions of constraints.txt:
#
#   docker build -t compress .
#   docker run --rm -v "$PWD:/work" compress quantize model.pth --data photos
#
# pip's default PyTorch for Linux x86-64 includes CUDA (about 6 GB). TORCH_INDEX adds the index of PyTorch's CPU
# wheels (pytorch.org, "Compute Platform: CPU"): docker build --build-arg TORCH_INDEX=... -t compress .
FROM python:3.11-slim

ARG TORCH_INDEX=""
ARG EXTRAS="nncf"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# torch.compile needs a C++ compiler
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch torchvision
COPY . .
RUN pip install -c constraints.txt ".[$EXTRAS]"

WORKDIR /work
ENTRYPOINT ["compress"]
CMD ["--help"]
