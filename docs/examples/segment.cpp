// Sends images to fcn-serve over one connection and reads each mask as an OpenCV matrix of class ids.
//
//   g++ -std=c++17 -O2 segment.cpp -o segment -I/usr/include/opencv4 -lopencv_core -lopencv_imgcodecs $(pkg-config --cflags --libs cpp-httplib)
//   ./segment http://127.0.0.1:8000 street.jpg ...

#include <array>
#include <fstream>
#include <iostream>
#include <iterator>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <string>

#include <httplib.h>

static std::string read_file(const char *path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

int main(int count, char **words) {
  if (count < 3) {
    std::cerr << "usage: " << words[0] << " URL IMAGE...\n";
    return 2;
  }
  httplib::Client service(words[1]);
  service.set_keep_alive(true);
  service.set_connection_timeout(5);
  service.set_read_timeout(30);

  for (int number = 2; number < count; ++number) {
    const httplib::Headers headers = {{"X-Frame-Id", std::to_string(number - 2)}, {"X-Deadline-Ms", "2000"}};
    const auto reply = service.Post("/segment?format=gray", headers, read_file(words[number]), "application/octet-stream");
    if (!reply) {
      std::cerr << words[number] << ": " << httplib::to_string(reply.error()) << "\n";
      return 1;
    }
    if (reply->status != 200) {  // 429 and 503 carry Retry-After: send the next frame instead, or this one later
      std::cerr << words[number] << ": " << reply->status << " " << reply->body << "\n";
      return 1;
    }
    const cv::Mat bytes(1, static_cast<int>(reply->body.size()), CV_8U, const_cast<char *>(reply->body.data()));
    const cv::Mat labels = cv::imdecode(bytes, cv::IMREAD_UNCHANGED);  // H x W, CV_8UC1: the class id of each pixel
    if (labels.type() != CV_8UC1) {
      std::cerr << words[number] << ": the reply is not a label map\n";
      return 1;
    }
    std::array<long, 256> pixels{};
    for (int row = 0; row < labels.rows; ++row)
      for (int column = 0; column < labels.cols; ++column) ++pixels[labels.at<unsigned char>(row, column)];
    std::cout << words[number] << " " << labels.cols << " x " << labels.rows << " frame " << reply->get_header_value("X-Frame-Id");
    for (int id = 0; id < 256; ++id)
      if (pixels[id]) std::cout << " " << id << ":" << pixels[id];
    std::cout << "\n";
  }
}
