#pragma once
#include <string>

namespace mi {
std::string describe();  // see mi_describe
}
