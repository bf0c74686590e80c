// A temporary folder with files of control groups, and the quota that the library reads from them.
#pragma once

#include "thread_limits.hpp"

#include <filesystem>
#include <fstream>
#include <string>

#include <stdlib.h>

#include <doctest/doctest.h>

/// A folder that is gone when the test is over.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "fused_XXXXXX").string();
        REQUIRE(mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder &) = delete;

    void write(const std::string &name, const std::string &text) const {
        std::filesystem::create_directories((path_ / name).parent_path());
        std::ofstream(path_ / name) << text << '\n';
    }

    std::string file(const std::string &name) const { return (path_ / name).string(); }

    /// The quota that the library reads from the files written here.
    int cpus() const {
        return fused_rmsprop::cgroup_cpus(file("membership").c_str(), file("fs").c_str());
    }

private:
    std::filesystem::path path_;
};
