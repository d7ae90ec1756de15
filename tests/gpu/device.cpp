// A CUDA device that the processor computes: for what a training does on a GPU, where there is none.
//
// PyTorch without CUDA has nothing registered for the device type "cuda". Here it gets memory (the machine's, counted and
// bounded), a device that is always ready, and for every operation the processor's own. What a GPU refuses is refused
// here, too: operands on several devices, and more memory than there is. What makes the processor wait for a GPU is
// counted. Streams are none: whatever is asked for has been done when the call returns.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

namespace {

using at::Tensor;

const c10::Device kGpu(c10::DeviceType::CUDA, 0);
constexpr size_t kHeader = 64; // before each allocation, so that what is freed can be counted

int64_t held = 0, most = 0, limit = 0, refused = 0;
void (*on_wait)() = nullptr;

void waited() {
  if (on_wait) on_wait();
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, kGpu};
    if (limit && held + static_cast<int64_t>(bytes) > limit) {
      ++refused;
      C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory. Tried to allocate " + std::to_string(bytes >> 10) + " KiB.");
    }
    auto* begin = static_cast<char*>(c10::alloc_cpu(bytes + kHeader));
    *reinterpret_cast<size_t*>(begin) = bytes;
    held += static_cast<int64_t>(bytes);
    most = std::max(most, held);
    return {begin + kHeader, begin + kHeader, &give_back, kGpu};
  }
  static void give_back(void* data) {
    auto* begin = static_cast<char*>(data) - kHeader;
    held -= static_cast<int64_t>(*reinterpret_cast<size_t*>(begin));
    c10::free_cpu(begin);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kGpu.type(); }
  c10::Device exchangeDevice(c10::Device) const override { return kGpu; }
  c10::Device getDevice() const override { return kGpu; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return only(); }
  c10::Stream getNewStream(c10::Device, int) const override { return only(); }
  c10::Stream getDefaultStream(c10::Device) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream) const override { return only(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}

 private:
  static c10::Stream only() { return c10::Stream(c10::Stream::DEFAULT, kGpu); }
};

// The same numbers as a tensor of the processor's.
Tensor seen_by_processor(const Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       tensor.options().device(at::kCPU).requires_grad(false));
}

Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
             std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                     std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& from, bool non_blocking) {
  if (self.is_cpu() != from.is_cpu() && !non_blocking) waited();
  c10::impl::ExcludeDispatchKeyGuard no_graph(c10::autograd_dispatch_keyset);
  seen_by_processor(self).copy_(seen_by_processor(from));
  return self;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  Tensor own = to;
  return copy_(own, from, non_blocking);
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  Tensor own = to;
  if (own.sizes() != from.sizes()) own.resize_(from.sizes());
  return copy_(own, from, false);
}

const Tensor& resize_(const Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  at::native::resize_impl_cpu_(self.unsafeGetTensorImpl(), size, std::nullopt);
  if (format) self.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return self;
}

at::Scalar number(const Tensor& self) {
  waited();
  return seen_by_processor(self).item();
}

Tensor& hold_part(Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* own = self.unsafeGetTensorImpl();
  own->set_storage_keep_dtype(std::move(storage));
  own->set_storage_offset(offset);
  own->set_sizes_and_strides(size, stride);
  return self;
}

Tensor& hold_all(Tensor& self, at::Storage storage) {
  const auto numbers = static_cast<int64_t>(storage.nbytes()) / self.element_size();
  return hold_part(self, std::move(storage), 0, {numbers}, {1});
}

Tensor& hold_same(Tensor& self, const Tensor& other) {
  return hold_part(self, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}

// Everything else, as the processor does it. Like a GPU's kernels it takes no operand from the other device, but for
// single numbers, and for indices, which are copied first.
void by_processor(const c10::OperatorHandle& operation, c10::DispatchKeySet, torch::jit::Stack* stack) {
  static const std::set<std::string> take_indices{"aten::index", "aten::_unsafe_index", "aten::index_put_",
                                                  "aten::_index_put_impl_"};
  static const std::set<std::string> answers_have_any_size{"aten::nonzero", "aten::masked_select", "aten::_unique2",
                                                           "aten::equal", "aten::repeat_interleave"};
  const auto& schema = operation.schema();
  const auto& name = schema.name();
  bool waits = answers_have_any_size.count(name) > 0;
  const auto look_at = [&](const Tensor& tensor, const std::string& argument) {
    if (!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0) return;
    TORCH_CHECK(take_indices.count(name), "Expected all tensors to be on the same device, and ", argument, " of ", name,
                " is on the processor");
    waits = true;
  };
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  for (size_t place = 0; place < arguments.size(); ++place) {
    const auto& argument = schema.arguments()[place].name();
    if (arguments[place].isTensor()) look_at(arguments[place].toTensor(), argument);
    if (arguments[place].isTensorList())
      for (const Tensor& tensor : arguments[place].toTensorVector()) look_at(tensor, argument);
  }
  if (waits) waited();
  auto* const ask = on_wait;
  on_wait = nullptr; // the copies from here on are this device's own way to compute
  try {
    at::native::cpu_fallback(operation, stack);
  } catch (...) {
    on_wait = ask;
    throw;
  }
  on_wait = ask;
}

} // namespace

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
}

namespace at {
// PyTorch looks for this name.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static const Generator generator = make_generator<CPUGeneratorImpl>(0);
    return generator;
  }
  Generator getNewGenerator(DeviceIndex) const override { return make_generator<CPUGeneratorImpl>(0); }
  Device getDeviceFromPtr(void*) const override { return kGpu; }
  void deviceSynchronize(DeviceIndex) const override {}
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CUDAHooks);
} // namespace at

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize_);
  m.impl("_local_scalar_dense", number);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("view_as_real", at::native::view_as_real);
  m.impl("view_as_complex", at::native::view_as_complex);
  m.impl("set_.source_Storage_storage_offset", hold_part);
  m.impl("set_.source_Storage", hold_all);
  m.impl("set_.source_Tensor", hold_same);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_processor>());
}

static const bool has_memory = [] {
  c10::SetAllocator(c10::DeviceType::CUDA, &memory);
  return true;
}();

extern "C" {
int64_t stand_in_held() { return held; }
int64_t stand_in_most() { return most; }
int64_t stand_in_refused() { return refused; }
void stand_in_forget_most() { most = held; }
void stand_in_limit(int64_t bytes) { limit = bytes; }
void stand_in_on_wait(void (*act)()) { on_wait = act; }
}
